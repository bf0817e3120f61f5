"""Where a change comes from: what the gateway knows of a public call and the store's audit record
of it says, sent along with every call that may change something.

Who it is and of which tenant stands in the internal token; this adds the rest. It is taken only
together with that token.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from meshkit.errors import MeshError

ORIGIN_HEADER = "x-agentmesh-origin"
_LONGEST = 256


@dataclass(frozen=True, slots=True)
class CallOrigin:
    """A public call, as an audit record shows it. Never what its message says."""

    call_id: str
    method: str
    resource: str = ""
    peer: str = ""
    trace_id: str = ""
    request_id: str = ""
    request_digest: str = ""
    """Of what the caller sent, if it is repeatable: a repetition of `request_id` must equal it."""
    _parts: Iterator[int] = field(default_factory=lambda: itertools.count(1), compare=False)

    def header(self) -> str:
        """As metadata of one call; each one made for the same public call has its own id."""
        fields = {
            "call": f"{self.call_id}.{next(self._parts)}",
            "method": self.method,
            "resource": self.resource,
            "peer": self.peer,
            "trace": self.trace_id,
            "request": self.request_id,
            "digest": self.request_digest,
        }
        return json.dumps(fields, separators=(",", ":"))


def parse(header: str) -> CallOrigin:
    """What `header` of this module wrote. Raises MeshError INVALID_ARGUMENT."""
    try:
        fields = json.loads(header)
        names = ("call", "method", "resource", "peer", "trace", "request", "digest")
        call, method, resource, peer, trace, request, digest = (
            str(fields[name])[:_LONGEST] for name in names
        )
    except (ValueError, KeyError, TypeError):
        raise MeshError.invalid(ORIGIN_HEADER, "is not what a gateway of this mesh sends") from None
    return CallOrigin(call, method, resource, peer, trace, request, digest)


# Apart from each other: what came is not sent on by itself, or work that outlives a call would go
# on under its name.
_begun: ContextVar[CallOrigin | None] = ContextVar("meshkit_call_origin_begun", default=None)
_received: ContextVar[CallOrigin | None] = ContextVar("meshkit_call_origin_received", default=None)


def begin(origin: CallOrigin) -> None:
    """Calls that the running task makes from now on are part of `origin`."""
    _begun.set(origin)


def find_begun() -> CallOrigin | None:
    """What the calls of the running task are part of."""
    return _begun.get()


def receive(origin: CallOrigin) -> None:
    """The running task serves a part of `origin`."""
    _received.set(origin)


def find_received() -> CallOrigin | None:
    """The public call that the running one is part of, if that one may change something."""
    return _received.get()


@contextmanager
def received_scope(origin: CallOrigin) -> Iterator[CallOrigin]:
    """What is done inside is a part of `origin`."""
    token = _received.set(origin)
    try:
        yield origin
    finally:
        _received.reset(token)
