"""How people steer conversations, over either edge of the gateway: the same calls over gRPC and
REST, with the same answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import grpc
import httpx
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from tests.support.errors import reason_of
from tests.support.mesh import Mesh


class Refused(Exception):  # noqa: N818 - an answer, not a defect
    """The gateway says no, for a reason of the contracts."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Edge(Protocol):
    """An edge of the gateway. Methods return the response as JSON."""

    async def send(self, name: str, content: str, strategy: str = "") -> Mapping[str, Any]:
        """SendMessage; the strategy is a word such as "interrupt"."""
        ...

    async def act(self, name: str, verb: str, **body: Any) -> Mapping[str, Any]:
        """Pause, resume, cancel or fork."""
        ...

    async def update(self, name: str, mask: str, **patch: Any) -> Mapping[str, Any]:
        """UpdateConversation."""
        ...

    async def get(self, name: str) -> Mapping[str, Any]:
        """GetConversation."""
        ...


class GrpcEdge:
    """Over gRPC."""

    def __init__(self, mesh: Mesh) -> None:
        self._stub = ConversationServiceStub(mesh.channel())

    async def send(self, name: str, content: str, strategy: str = "") -> Mapping[str, Any]:
        """See Edge."""
        body = {"conversation_id": name, "content": content}
        if strategy:
            body["strategy"] = f"DELIVERY_STRATEGY_{strategy.upper()}"
        return await self._call("SendMessage", body)

    async def act(self, name: str, verb: str, **body: Any) -> Mapping[str, Any]:
        """See Edge."""
        return await self._call(f"{verb.title()}Conversation", {"conversation_id": name, **body})

    async def update(self, name: str, mask: str, **patch: Any) -> Mapping[str, Any]:
        """See Edge."""
        request = pb2.UpdateConversationRequest(
            conversation_id=name, update_mask=FieldMask(paths=mask.split(","))
        )
        json_format.ParseDict(patch, request.conversation)
        return await self._ask(self._stub.UpdateConversation, request)

    async def get(self, name: str) -> Mapping[str, Any]:
        """See Edge."""
        return await self._call("GetConversation", {"conversation_id": name})

    async def _call(self, method: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        request = json_format.ParseDict(dict(body), getattr(pb2, f"{method}Request")())
        return await self._ask(getattr(self._stub, method), request)

    async def _ask(self, method: Any, request: Any) -> Mapping[str, Any]:
        try:
            response = await method(request, timeout=20, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise Refused(reason_of(error)) from error
        content = json_format.MessageToDict(response, preserving_proto_field_name=True)
        return {key: _short_words(value) for key, value in content.items()}


class RestEdge:
    """Over REST."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def send(self, name: str, content: str, strategy: str = "") -> Mapping[str, Any]:
        """See Edge."""
        body = {"content": content} | ({"strategy": strategy} if strategy else {})
        return _answer(await self._http.post(f"/conversations/{name}/message", json=body))

    async def act(self, name: str, verb: str, **body: Any) -> Mapping[str, Any]:
        """See Edge."""
        return _answer(await self._http.post(f"/conversations/{name}/{verb}", json=body))

    async def update(self, name: str, mask: str, **patch: Any) -> Mapping[str, Any]:
        """See Edge."""
        body = {"conversation": patch, "update_mask": mask}
        return _answer(await self._http.patch(f"/conversations/{name}", json=body))

    async def get(self, name: str) -> Mapping[str, Any]:
        """See Edge."""
        return _answer(await self._http.get(f"/conversations/{name}"))


def _answer(response: httpx.Response) -> Mapping[str, Any]:
    body: dict[str, Any] = response.json()
    if response.is_success:
        return body
    assert response.status_code < 500, response.text
    raise Refused(next(d["reason"] for d in body["error"]["details"] if "reason" in d))


def _short_words(value: Any) -> Any:
    """Enums as REST writes them."""
    if isinstance(value, dict):
        return {key: _short_words(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_short_words(one) for one in value]
    prefix = "CONVERSATION_STATUS_"
    return (
        value.removeprefix(prefix).lower()
        if isinstance(value, str) and value.startswith(prefix)
        else value
    )
