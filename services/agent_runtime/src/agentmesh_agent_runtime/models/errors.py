"""What an error of a model server means for the turn that met it."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai

from agentmesh_agent_runtime.turns.failures import (
    ModelCredentialsRefused,
    ModelFailed,
    ModelRefused,
    TurnFailure,
)

_PASSING_STATUSES = frozenset({408, 409, 425, 429})
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_LIKE_A_KEY = re.compile(r"\b(sk|key|amk)[-_][A-Za-z0-9_*-]{4,}")


def from_openai(error: openai.APIError | httpx2.HTTPError, api_key: str) -> TurnFailure:
    """Sorts an error of the client library: passing, for good, or about credentials.

    `api_key` is kept out of what it says.
    """
    if isinstance(error, openai.APIStatusError):
        return _from_status(error, api_key)
    if isinstance(error, (openai.APITimeoutError, httpx2.TimeoutException)):
        return ModelFailed("the model server did not answer in time")
    if isinstance(error, (openai.APIConnectionError, httpx2.TransportError)):
        cause = error.__cause__ or error
        return ModelFailed(f"the connection to the model server failed: {_plain(cause, api_key)}")
    return ModelFailed(f"the model server's answer cannot be used: {_plain(error, api_key)}")


def from_stream_error(body: Any, api_key: str) -> TurnFailure:
    """Sorts an error object that came in the middle of a stream. `api_key` as in `from_openai`."""
    if not isinstance(body, dict):
        return ModelFailed(f"the model server reports an error: {_plain(body, api_key)}")
    said = _plain(body.get("message") or body, api_key)
    message = f"the model server reports an error: {said}"
    if body.get("code") in _NO_CREDIT or body.get("type") == "invalid_request_error":
        return ModelRefused(message)
    return ModelFailed(message)


def _from_status(error: openai.APIStatusError, api_key: str) -> TurnFailure:
    status = error.status_code
    detail = f"the model server answers HTTP {status}: {_plain(_message_of(error), api_key)}"
    if status in (401, 403):
        return ModelCredentialsRefused(f"{detail}; check OPENAI_API_KEY and OPENAI_BASE_URL")
    if error.code in _NO_CREDIT:
        return ModelRefused(f"{detail}; the account has no credit left")
    if status in _PASSING_STATUSES or status >= 500:
        return ModelFailed(detail, retry_after=_retry_after(error.response.headers))
    return ModelRefused(detail)


def _message_of(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        nested = body.get("error")
        if isinstance(nested, dict):
            body = nested
        return str(body.get("message") or error.message)
    return error.message


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` in either of its forms."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return float(value)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else None
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds()) if now else None
    except ValueError:
        return None


def _plain(value: object, api_key: str) -> str:
    """One short line without the configured key or anything that looks like a key."""
    text = " ".join(str(value).split()) or type(value).__name__
    if api_key:
        text = text.replace(api_key, "[key]")
    return _LIKE_A_KEY.sub("[key]", text)[:500]
