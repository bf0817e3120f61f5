"""What an error of a model server means for the turn that met it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from agentmesh_agent_runtime.components import plain
from agentmesh_agent_runtime.turns.failures import (
    ModelCredentialsRefused,
    ModelFailed,
    ModelRefused,
    TurnFailure,
)

T = TypeVar("T")

LONGEST_RETRY_AFTER = 24 * 3600.0
"""Seconds that a server may ask for."""

_PASSING_STATUSES = frozenset({408, 409, 425, 429})
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_error"})
_FOR_GOOD = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})
_OF_CREDENTIALS = frozenset({"authentication_error", "permission_error"})
_LIKE_A_KEY = re.compile(r"\b(sk|key|amk)[-_][A-Za-z0-9_*-]{4,}")


@dataclass(frozen=True)
class ServerFailures:
    """Sorts what goes wrong at one server: passing, for good, or about credentials.

    `api_key` is kept out of everything it says; `remedy` is what to check if the key is refused.
    """

    api_key: str = field(repr=False)
    remedy: str

    def timeout(self) -> TurnFailure:
        """Nothing came for too long."""
        return ModelFailed("the model server did not answer in time")

    def connection(self, cause: object) -> TurnFailure:
        """The server cannot be reached, or the connection broke."""
        return ModelFailed(f"the connection to the model server failed: {self._plain(cause)}")

    def unusable(self, cause: object) -> TurnFailure:
        """What came is not what the protocol allows."""
        return ModelFailed(f"the model server's answer cannot be used: {self._plain(cause)}")

    def client(self, name: str, error: BaseException) -> TurnFailure:
        """The client of a package failed in a way of its own."""
        return ModelFailed(f"the model client {name!r} failed: {self._plain(plain(error))}")

    def status(
        self, status: int, headers: Mapping[str, str], said: str, code: str | None = None
    ) -> TurnFailure:
        """An HTTP status other than success; `said` and `code` come from its body."""
        detail = f"the model server answers HTTP {status}: {self._plain(said)}"
        if status in (401, 403):
            return ModelCredentialsRefused(f"{detail}; {self.remedy}")
        if code in _NO_CREDIT:
            return ModelRefused(f"{detail}; the account has no credit left")
        if status in _PASSING_STATUSES or status >= 500:
            return ModelFailed(detail, retry_after=_retry_after(headers))
        return ModelRefused(detail)

    def reading(self, take: Callable[[dict[str, Any]], T], event: dict[str, Any]) -> T:
        """What `take` makes of a chunk. Raises `unusable` if the protocol knows no such chunk."""
        try:
            return take(event)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self.unusable(f"a chunk of it has another shape ({error})") from error

    def in_stream(self, body: Any) -> TurnFailure:
        """An error object in the middle of a stream."""
        if not isinstance(body, dict):
            return ModelFailed(f"the model server reports an error: {self._plain(body)}")
        said = self._plain(body.get("message") or body)
        message = f"the model server reports an error: {said}"
        if body.get("type") in _OF_CREDENTIALS:
            return ModelCredentialsRefused(f"{message}; {self.remedy}")
        if body.get("code") in _NO_CREDIT or body.get("type") in _FOR_GOOD | _NO_CREDIT:
            return ModelRefused(message)
        return ModelFailed(message)

    def _plain(self, value: object) -> str:
        """One short line without the key or anything that looks like one."""
        text = " ".join(str(value).split()) or type(value).__name__
        if self.api_key:
            text = text.replace(self.api_key, "[key]")
        return _LIKE_A_KEY.sub("[key]", text)[:500]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by `retry-after-ms` or `retry-after` in either of its forms; a day at most.

    None if the server says nothing that can be meant.
    """
    try:
        wait = _asked_for(headers)
    except (ValueError, TypeError, OverflowError):
        return None
    # A comparison with what is no number is false.
    return min(wait, LONGEST_RETRY_AFTER) if wait is not None and wait >= 0 else None


def _asked_for(headers: Mapping[str, str]) -> float | None:
    if "retry-after-ms" in headers:
        return float(headers["retry-after-ms"]) / 1000
    value = headers.get("retry-after")
    if value is None:
        return None
    if value.strip().replace(".", "", 1).isdigit():
        return float(value)
    now = parsedate_to_datetime(headers["date"]) if "date" in headers else None
    return max(0.0, (parsedate_to_datetime(value) - now).total_seconds()) if now else None
