"""Definitions, read from the store's catalog."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from agentmesh.catalog.v1.agent_pb2 import AgentDefinition
from agentmesh.catalog.v1.team_pb2 import TeamDefinition
from agentmesh.catalog.v1.workflow_pb2 import WorkflowDefinition
from agentmesh.conversation_store.v1.catalog_service_pb2 import (
    Document,
    DocumentKind,
    ListDocumentsRequest,
)

from agentmesh_gateway.definitions.team_selection import SHOWN_NAMES

if TYPE_CHECKING:
    # Only the stubs' type information has these names.
    from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

# As many names are asked for at once, too.
_PAGE = 1000


class Catalog:
    """The definitions that the caller's tenant can use."""

    def __init__(self, store: CatalogServiceAsyncStub) -> None:
        self._store = store

    async def documents(
        self, kind: DocumentKind.ValueType, names: Collection[str] | None = None
    ) -> dict[str, Document]:
        """The newest versions by name: all of them, or those of `names` that exist."""
        if names is None:
            return await self._all(ListDocumentsRequest(kind=kind, page_size=_PAGE))
        found: dict[str, Document] = {}
        ordered = sorted(names)
        for start in range(0, len(ordered), _PAGE):
            some = ordered[start : start + _PAGE]
            found |= await self._all(ListDocumentsRequest(kind=kind, page_size=_PAGE, names=some))
        return found

    async def _all(self, request: ListDocumentsRequest) -> dict[str, Document]:
        found: dict[str, Document] = {}
        while True:
            page = await self._store.ListDocuments(request)
            found.update((document.name, document) for document in page.documents)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def names(self, kind: DocumentKind.ValueType) -> list[str]:
        """The first names of one kind, in order: some more than an error message shows, since
        whoever errs must not make the gateway read all there is."""
        page = await self._store.ListDocuments(
            ListDocumentsRequest(kind=kind, page_size=SHOWN_NAMES + 1)
        )
        return [document.name for document in page.documents]

    async def agents(self, ids: Collection[str]) -> dict[str, AgentDefinition]:
        """Those agents of `ids` that exist, each with its id and version."""
        documents = await self.documents(DocumentKind.DOCUMENT_KIND_AGENT, ids)
        return {name: pinned_agent(document) for name, document in documents.items()}

    async def teams(self, ids: Collection[str]) -> dict[str, TeamDefinition]:
        """Those teams of `ids` that exist, each with its id and version."""
        documents = await self.documents(DocumentKind.DOCUMENT_KIND_TEAM, ids)
        return {name: pinned_team(document) for name, document in documents.items()}

    async def workflow(self, workflow_id: str) -> WorkflowDefinition | None:
        """The workflow of that id, with its version, if there is one."""
        kind = DocumentKind.DOCUMENT_KIND_WORKFLOW
        document = (await self.documents(kind, [workflow_id])).get(workflow_id)
        return None if document is None else pinned_workflow(document)

    async def missing_tools(self, names: Collection[str]) -> list[str]:
        """Those tools of `names` that do not exist, in order."""
        known = await self.documents(DocumentKind.DOCUMENT_KIND_TOOL, names)
        return sorted(set(names) - set(known))


def pinned_agent(document: Document) -> AgentDefinition:
    """The agent of a document, with the id and version that the catalog gave it."""
    agent = AgentDefinition()
    agent.CopyFrom(document.agent)
    agent.id = document.name
    agent.version = document.version
    return agent


def pinned_team(document: Document) -> TeamDefinition:
    """The team of a document, with the id and version that the catalog gave it."""
    team = TeamDefinition()
    team.CopyFrom(document.team)
    team.id = document.name
    team.version = document.version
    return team


def pinned_workflow(document: Document) -> WorkflowDefinition:
    """The workflow of a document, with the id and version that the catalog gave it."""
    workflow = WorkflowDefinition()
    workflow.CopyFrom(document.workflow)
    workflow.id = document.name
    workflow.version = document.version
    return workflow
