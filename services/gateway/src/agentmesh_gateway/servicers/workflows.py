"""WorkflowService: what `workflow` of a conversation can name."""

from __future__ import annotations

from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.gateway.v1 import workflow_service_pb2 as pb2
from meshkit.errors import MeshError

from agentmesh_gateway.catalog import pinned_team, pinned_workflow
from agentmesh_gateway.servicers.context import Context
from agentmesh_gateway.upstream import Upstream

_DEFAULT_PAGE = 100
_WORKFLOWS, _TEAMS = "w", "t"


class WorkflowServicer:
    """Executing and registering workflows are not served yet."""

    def __init__(self, upstream: Upstream) -> None:
        self._store = upstream.catalog

    async def list_workflows(
        self, request: pb2.ListWorkflowsRequest, context: Context
    ) -> pb2.ListWorkflowsResponse:
        """Pages through workflows first, then through teams."""
        part, token = _split(request.page_token)
        left = request.page_size or _DEFAULT_PAGE
        response = pb2.ListWorkflowsResponse()
        if part == _WORKFLOWS:
            page = await self._page(catalog_pb2.DOCUMENT_KIND_WORKFLOW, left, token)
            response.workflows.extend(pinned_workflow(found) for found in page.documents)
            if page.next_page_token:
                response.next_page_token = f"{_WORKFLOWS}{page.next_page_token}"
                return response
            left, token = left - len(page.documents), ""
        if left <= 0:
            response.next_page_token = _TEAMS
            return response
        page = await self._page(catalog_pb2.DOCUMENT_KIND_TEAM, left, token)
        response.teams.extend(pinned_team(found) for found in page.documents)
        if page.next_page_token:
            response.next_page_token = f"{_TEAMS}{page.next_page_token}"
        return response

    async def _page(
        self, kind: catalog_pb2.DocumentKind.ValueType, size: int, token: str
    ) -> catalog_pb2.ListDocumentsResponse:
        return await self._store.ListDocuments(
            catalog_pb2.ListDocumentsRequest(kind=kind, page_size=size, page_token=token)
        )


def _split(page_token: str) -> tuple[str, str]:
    if not page_token:
        return _WORKFLOWS, ""
    part, token = page_token[0], page_token[1:]
    if part not in (_WORKFLOWS, _TEAMS):
        raise MeshError.invalid("page_token", "is none that an earlier page gave")
    return part, token
