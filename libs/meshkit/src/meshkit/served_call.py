"""A call as those see it who keep account of calls."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf.message import Message
from opentelemetry.trace import Span

from meshkit.caller_address import address_of_peer, find_caller_address, peer_of_address
from meshkit.context import Principal
from meshkit.policy import MethodRules

if TYPE_CHECKING:
    from meshkit.admission import ServicerContext


class ServedCall:
    """One call being served. `code` and `reason` are its outcome; OK until something failed."""

    __slots__ = (
        "admittance",
        "begins_trace",
        "capability",
        "code",
        "context",
        "internal",
        "notes",
        "origin",
        "principal",
        "reason",
        "request",
        "response",
        "rules",
        "span",
        "started",
        "task",
    )

    def __init__(
        self, rules: MethodRules, task: asyncio.Task[Any], context: ServicerContext
    ) -> None:
        self.rules = rules
        self.task = task
        self.context = context
        self.started = time.perf_counter()
        self.span: Span | None = None
        self.begins_trace = False
        """Whether the caller named a trace that was not continued."""
        self.internal = ""
        self.capability = ""
        self.origin = ""
        self.principal: Principal | None = None
        self.request: Message | None = None
        """The request, or the first of a stream; None before it came. Not validated yet."""
        self.response: Message | bytes | None = None
        """The response of a call that has one."""
        self.code: grpc.StatusCode = grpc.StatusCode.OK
        self.reason = ""
        self.admittance: Any = None
        """What the gate wants to find again."""
        self.notes: Any = None
        """What the listener wants to find again."""

    def recognised(self, principal: Principal) -> None:
        """Notes who calls."""
        self.principal = principal

    def failed(self, code: grpc.StatusCode, reason: str) -> None:
        """Notes the outcome."""
        self.code, self.reason = code, reason

    @property
    def peer(self) -> str:
        """Where the call comes from, as gRPC writes it: through trusted proxies, whom they name."""
        address, peer = find_caller_address(), self.context.peer() or ""
        if not address or address_of_peer(peer) == address:
            return peer
        return peer_of_address(address)

    @property
    def trace_id(self) -> str:
        """In hexadecimal digits; empty without a trace."""
        if self.span is None:
            return ""
        return f"{self.span.get_span_context().trace_id:032x}"


class CallListener(Protocol):
    """Is told of the calls of a server."""

    async def admitted(self, call: ServedCall) -> None:
        """Before the call is carried out. What this raises refuses it."""

    def ended(self, call: ServedCall) -> None:
        """When it is over, whatever came of it; also for a call that was not admitted."""
