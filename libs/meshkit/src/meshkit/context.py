"""Who the current call acts for. Set by the server, read by domain code and channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from meshkit.errors import MeshError


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: who, of which tenant, in which role (`common.v1.Role`), through which service.

    `scopes` are those that the caller's credentials are limited to; None: they are not limited.
    """

    subject: str
    tenant: str
    role: int
    service: str = ""
    scopes: frozenset[str] | None = None

    def has_scope(self, scope: str) -> bool:
        """Whether the credentials allow what needs `scope`."""
        return self.scopes is None or scope in self.scopes


@dataclass(frozen=True, slots=True)
class RunCapability:
    """The right to work on one run under one fence; `token` is its signed form."""

    tenant: str
    conversation_id: str
    run_id: str
    fence: int
    token: str


SYSTEM = Principal(subject="system", tenant="", role=0)
"""A service that acts for itself. Only methods of AUDIENCE_SYSTEM take it."""

_principal: ContextVar[Principal | None] = ContextVar("meshkit_principal", default=None)
_capability: ContextVar[RunCapability | None] = ContextVar("meshkit_capability", default=None)


def current_principal() -> Principal:
    """Whom the current call acts for. Raises MeshError UNAUTHENTICATED outside of any."""
    principal = _principal.get()
    if principal is None:
        raise MeshError.credentials_missing("this needs a caller, and the call carries none")
    return principal


def current_capability() -> RunCapability:
    """The run capability of the current call. Raises MeshError PERMISSION_DENIED without one."""
    capability = _capability.get()
    if capability is None:
        raise MeshError.capability_required(
            "this needs a run capability, and the call carries none"
        )
    return capability


def find_principal() -> Principal | None:
    """Whom the current call acts for, if anybody."""
    return _principal.get()


def find_capability() -> RunCapability | None:
    """The run capability of the current call, if it carries one."""
    return _capability.get()


@contextmanager
def principal_scope(principal: Principal) -> Iterator[Principal]:
    """Calls made inside act for `principal`."""
    token = _principal.set(principal)
    try:
        yield principal
    finally:
        _principal.reset(token)


@contextmanager
def capability_scope(capability: RunCapability) -> Iterator[RunCapability]:
    """Calls made inside carry `capability`."""
    token = _capability.set(capability)
    try:
        yield capability
    finally:
        _capability.reset(token)


def enter_call(principal: Principal | None, capability: RunCapability | None) -> None:
    """Sets the identity of the call that the running task serves, for the rest of the task."""
    _principal.set(principal)
    _capability.set(capability)
