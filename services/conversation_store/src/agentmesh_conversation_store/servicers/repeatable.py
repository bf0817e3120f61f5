"""Mutations that may be repeated under their request id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from meshkit.call_origin import find_received
from meshkit.context import find_principal
from meshkit.errors import MeshError

from agentmesh_conversation_store.codec.digests import short_digest
from agentmesh_conversation_store.domain.changes import Command
from agentmesh_conversation_store.storage.interface import (
    Storage,
)
from agentmesh_conversation_store.storage.requests import Request

R = TypeVar("R")
Response = TypeVar("Response", bound=Message)


class Repeatable(Protocol):
    """A request message with an id of the caller's choice."""

    @property
    def request_id(self) -> str:
        """Empty: not deduplicated."""
        ...

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:  # noqa: N802 - protobuf's
        """As every message."""
        ...


def request_record(
    tenant: str, method: str, message: Repeatable, render: Callable[[R], Message]
) -> Request[R]:
    """What is kept of a request: equal bodies of the same method have equal digests."""
    body = message.SerializeToString(deterministic=True)
    return record_of_body(tenant, method, message.request_id, body, render)


def record_of_body(
    tenant: str, method: str, request_id: str, body: bytes, render: Callable[[R], Message]
) -> Request[R]:
    """The same where the message is not what repetitions have to equal.

    Ids are those of one caller and one method: nobody is told what somebody else was answered.
    """
    if "\0" in request_id:
        raise MeshError.invalid("request_id", "must not contain NUL")
    principal, origin = find_principal(), find_received()
    digest = short_digest(method, body)
    if origin is not None:
        # What the caller asked for. What a gateway made of it, say of the newest agents, may differ
        # from one time to the next.
        method, digest = origin.method, origin.request_digest or digest
    subject = principal.subject if principal else ""
    return Request(
        tenant,
        request_id,
        digest.encode(),
        lambda result: render(result).SerializeToString(),
        short_digest(subject, method),
    )


async def carry_out(
    storage: Storage,
    command: Command[R],
    tenant: str,
    message: Repeatable,
    response: type[Response],
    render: Callable[[R], Response],
) -> Response:
    """Executes a command once per request id, and answers repetitions as the first time."""
    if not message.request_id:
        return render(await storage.execute(command))
    record = request_record(tenant, response.DESCRIPTOR.full_name, message, render)
    return response.FromString(await storage.execute_once(command, record))
