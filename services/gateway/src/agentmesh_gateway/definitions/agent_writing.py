"""New versions of agents: checked by the runtime, written to the tenant's catalog.

Changing and copying make a definition of one that is read first. So what was read is compared when
it is replaced, and a repeated request is answered before anything is read: it must not be made of
what was written since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from agentmesh.agent_runtime.v1.agent_runtime_service_pb2 import CheckDefinitionsRequest
from agentmesh.catalog.v1.agent_pb2 import AgentDefinition
from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.gateway.v1 import agent_service_pb2 as pb2
from google.protobuf.message import Message
from meshkit.errors import FieldViolation, MeshError, from_rpc_error
from meshkit.validation import validate

from agentmesh_gateway.definitions.agents import config_of, copied, definition_of, revised
from agentmesh_gateway.definitions.catalog import pinned_agent
from agentmesh_gateway.field_masks import Path, paths_of
from agentmesh_gateway.idempotency.claims import digest_of
from agentmesh_gateway.idempotency.recalling import Recalls
from agentmesh_gateway.upstream import Upstream

if TYPE_CHECKING:
    # Only the stubs' type information has these names.
    from agentmesh.agent_runtime.v1.agent_runtime_service_pb2_grpc import (
        AgentRuntimeServiceAsyncStub,
    )
    from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

AGENT = catalog_pb2.DOCUMENT_KIND_AGENT
_CHECKED = "agents[0]"
# So often others may come first before a change without an etag is given up.
_ATTEMPTS = 10


class AgentWriter:
    """Registers, changes and copies agents. Returns the documents as they are then."""

    def __init__(self, upstream: Upstream, recalls: Recalls) -> None:
        self._store: CatalogServiceAsyncStub = upstream.catalog
        self._runtime: AgentRuntimeServiceAsyncStub = upstream.runtime
        self._recalls = recalls

    async def register(self, request: pb2.RegisterAgentRequest) -> catalog_pb2.Document:
        """Writes the first version. ALREADY_EXISTS if the tenant has an agent of that name."""

        async def register() -> catalog_pb2.PutDocumentResponse:
            definition = definition_of(request.name, request.config)
            await self._check(definition, "name")
            return await self._put(definition, request_id=request.request_id, must_be_new=True)

        kind = catalog_pb2.PutDocumentResponse
        return (await self._recalls.or_answered(request, kind, register)).document

    async def update(self, request: pb2.UpdateAgentRequest) -> catalog_pb2.Document:
        """Writes a version with some fields changed. ABORTED if the etag is an old one."""
        paths = paths_of(request.update_mask, request.config)
        if not paths:
            raise MeshError.invalid(
                "config", "has nothing to change; name what is to be emptied in `update_mask`"
            )
        known = await self._recall(request)
        if known is not None:
            return known
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._update(request, paths)
            except grpc.aio.AioRpcError as error:
                reason = from_rpc_error(error).reason
                if request.etag or reason != errors_pb2.ERROR_REASON_ETAG_MISMATCH:
                    raise
        return await self._update(request, paths)

    async def _update(
        self, request: pb2.UpdateAgentRequest, paths: list[Path]
    ) -> catalog_pb2.Document:
        document = await self._read(request.agent_id, 0)
        definition = revised(pinned_agent(document), request.config, paths)
        await self._check(definition, "agent_id")
        written = await self._put(
            definition,
            request_id=request.request_id,
            request_digest=digest_of(request),
            etag=request.etag or document.etag,
        )
        return written.document

    async def clone(self, request: pb2.CloneAgentRequest) -> catalog_pb2.Document:
        """Writes the first version of a copy. ALREADY_EXISTS if the tenant sees an agent of that
        name, be it a shipped one."""
        paths = paths_of(request.update_mask, request.config)
        known = await self._recall(request)
        if known is not None:
            return known
        source = pinned_agent(await self._read(request.agent_id, request.version))
        if not await self._is_free(request.name):
            # Perhaps the same request made it, at another replica and just now.
            known = await self._recall(request)
            if known is None:
                raise MeshError.already_exists("agent", request.name)
            return known
        definition = revised(copied(source, request.name), request.config, paths)
        await self._check(definition, "name")
        written = await self._put(
            definition,
            request_id=request.request_id,
            request_digest=digest_of(request),
            must_be_new=True,
        )
        return written.document

    async def _recall(self, request: Message) -> catalog_pb2.Document | None:
        answered = await self._recalls.answered(request, catalog_pb2.PutDocumentResponse)
        return None if answered is None else answered.document

    async def _read(self, agent_id: str, version: int) -> catalog_pb2.Document:
        request = catalog_pb2.GetDocumentRequest(kind=AGENT, name=agent_id, version=version)
        return (await self._store.GetDocument(request)).document

    async def _is_free(self, name: str) -> bool:
        request = catalog_pb2.ListDocumentsRequest(kind=AGENT, names=[name])
        return not (await self._store.ListDocuments(request)).documents

    async def _check(self, definition: AgentDefinition, id_field: str) -> None:
        # Of fields that are allowed one by one, something else may have been made.
        validate(pb2.RegisterAgentRequest(name=definition.id, config=config_of(definition)))
        answer = await self._runtime.CheckDefinitions(CheckDefinitionsRequest(agents=[definition]))
        if answer.findings:
            raise MeshError.invalid_fields(
                [
                    FieldViolation(_request_path(finding.path, id_field), finding.description)
                    for finding in answer.findings
                ]
            )

    async def _put(
        self,
        definition: AgentDefinition,
        *,
        request_id: str,
        request_digest: bytes = b"",
        etag: str = "",
        must_be_new: bool = False,
    ) -> catalog_pb2.PutDocumentResponse:
        document = catalog_pb2.Document(kind=AGENT, name=definition.id, agent=definition)
        return await self._store.PutDocument(
            catalog_pb2.PutDocumentRequest(
                request_id=request_id,
                document=document,
                etag=etag,
                must_be_new=must_be_new,
                request_digest=request_digest,
            )
        )


def _request_path(path: str, id_field: str) -> str:
    """Where the request has what the runtime found at `path` of the checked document."""
    within = path.removeprefix(_CHECKED).removeprefix(".")
    return id_field if within == "id" else f"config.{within}" if within else "config"
