"""Requests that may come twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

R_contra = TypeVar("R_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Request(Generic[R_contra]):
    """A repeatable mutation: its id and digest are kept with its response for 24 h.

    Ids mean something within a `scope`: the same one of another caller or of another method is
    another request.
    """

    tenant: str
    request_id: str
    digest: bytes
    encode: Callable[[R_contra], bytes]
    scope: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What it is kept under."""
        return self.tenant, f"{self.scope}/{self.request_id}" if self.scope else self.request_id
