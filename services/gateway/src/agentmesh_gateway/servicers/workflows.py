"""WorkflowService: workflows with parameters, and how far their executions are."""

from __future__ import annotations

from datetime import UTC, datetime

import grpc
from agentmesh.catalog.v1.team_pb2 import TeamDefinition
from agentmesh.catalog.v1.workflow_pb2 import WorkflowDefinition
from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation.v1.conversation_pb2 import (
    CONVERSATION_STATUS_COMPLETED,
    CONVERSATION_STATUS_PAUSED,
    CONVERSATION_STATUS_RUNNING,
    CONVERSATION_STATUS_WAITING,
    Conversation,
)
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import workflow_service_pb2 as pb2
from meshkit.errors import MeshError

from agentmesh_gateway.definitions.catalog import Catalog, pinned_team, pinned_workflow
from agentmesh_gateway.definitions.pinning import pin_member, refuse
from agentmesh_gateway.definitions.team_selection import listing
from agentmesh_gateway.idempotency.recalling import Recalls
from agentmesh_gateway.servicers.context import Context
from agentmesh_gateway.settings import GatewaySettings
from agentmesh_gateway.upstream import Upstream
from agentmesh_gateway.workflows.definitions import (
    as_json,
    definition_faults,
    parameter_faults,
    task_of,
)
from agentmesh_gateway.workflows.progress import (
    COMPLETED,
    FAILED,
    RUNNING,
    WAITING,
    Progress,
    progress_of,
    reached,
)

_DEFAULT_PAGE = 100
_WORKFLOWS, _TEAMS = "w", "t"
_WORKFLOW = catalog_pb2.DOCUMENT_KIND_WORKFLOW


class WorkflowServicer:
    """A workflow of one stage becomes a conversation with the team of that stage."""

    def __init__(
        self,
        upstream: Upstream,
        catalog: Catalog,
        recalls: Recalls,
        settings: GatewaySettings,
    ) -> None:
        self._store = upstream.catalog
        self._conversations = upstream.conversations
        self._catalog = catalog
        self._recalls = recalls
        self._settings = settings

    async def execute_workflow(
        self, request: pb2.ExecuteWorkflowRequest, context: Context
    ) -> pb2.ExecuteWorkflowResponse:
        """Starts the conversation. No runtime is needed for it."""
        answer = await self._recalls.or_answered(
            request, store_pb2.StartConversationResponse, lambda: self._execute(request)
        )
        started = answer.conversation
        return pb2.ExecuteWorkflowResponse(
            execution_id=started.conversation_id,
            conversation_id=started.conversation_id,
            workflow_id=request.workflow_id,
            status=started.status,
            started_at=started.started_at,
        )

    async def _execute(
        self, request: pb2.ExecuteWorkflowRequest
    ) -> store_pb2.StartConversationResponse:
        workflow = await self._known(request.workflow_id)
        _require_executable(workflow)
        values = as_json(request.parameters)
        refuse(parameter_faults(workflow, values))
        pinned = await pin_member(self._catalog, workflow.stages[0].team, workflow.id)
        wanted = store_pb2.StartConversationRequest(
            request_id=request.request_id,
            task=task_of(workflow, values),
            definition=pinned.definition,
            workflow=workflow.id,
            agents=pinned.agents,
            max_rounds=pinned.definition.max_rounds or self._settings.max_rounds,
        )
        if workflow.HasField("timeout"):
            wanted.timeout.CopyFrom(workflow.timeout)
        return await self._conversations.StartConversation(wanted)

    async def get_workflow_status(
        self, request: pb2.GetWorkflowStatusRequest, context: Context
    ) -> pb2.GetWorkflowStatusResponse:
        """What the newest run of the conversation has come to."""
        found = await self._conversations.GetConversation(
            store_pb2.GetConversationRequest(
                conversation_id=request.execution_id, with_definition=True
            )
        )
        conversation = found.conversation
        if not conversation.workflow:
            raise MeshError.not_found("execution of a workflow", request.execution_id)
        whole, inner = await self._stage(conversation, found.definition)
        response = pb2.GetWorkflowStatusResponse(
            execution_id=conversation.conversation_id,
            workflow_id=conversation.workflow,
            status=conversation.status,
            stages=[whole],
            conversation_id=conversation.conversation_id,
            stage="/".join([whole.id, *([inner] if inner else [])]),
            started_at=conversation.run.started_at,
            result=conversation.summary,
            detail=conversation.run.detail,
        )
        if conversation.HasField("completed_at"):
            response.completed_at.CopyFrom(conversation.completed_at)
        return response

    async def register_workflow(
        self, request: pb2.RegisterWorkflowRequest, context: Context
    ) -> pb2.RegisterWorkflowResponse:
        """Writes a version of it, if it can be carried out."""
        written = await self._recalls.or_answered(
            request, catalog_pb2.PutDocumentResponse, lambda: self._register(request)
        )
        return pb2.RegisterWorkflowResponse(workflow=pinned_workflow(written.document))

    async def _register(
        self, request: pb2.RegisterWorkflowRequest
    ) -> catalog_pb2.PutDocumentResponse:
        workflow = request.workflow
        refuse(definition_faults(workflow, "workflow"))
        await pin_member(self._catalog, workflow.stages[0].team, workflow.id)
        document = catalog_pb2.Document(kind=_WORKFLOW, name=workflow.id, workflow=workflow)
        return await self._store.PutDocument(
            catalog_pb2.PutDocumentRequest(document=document, request_id=request.request_id)
        )

    async def list_workflows(
        self, request: pb2.ListWorkflowsRequest, context: Context
    ) -> pb2.ListWorkflowsResponse:
        """Pages through workflows first, then through teams."""
        part, token = _split(request.page_token)
        left = request.page_size or _DEFAULT_PAGE
        response = pb2.ListWorkflowsResponse()
        if part == _WORKFLOWS:
            page = await self._page(_WORKFLOW, left, token)
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

    async def _known(self, workflow_id: str) -> WorkflowDefinition:
        workflow = await self._catalog.workflow(workflow_id)
        if workflow is None:
            known = listing(await self._catalog.names(_WORKFLOW))
            raise MeshError(
                grpc.StatusCode.NOT_FOUND,
                errors_pb2.ERROR_REASON_NOT_FOUND,
                f"workflow {workflow_id!r} does not exist; known: {known}",
                resource=("workflow", workflow_id),
            )
        return workflow

    async def _stage(
        self, conversation: Conversation, team: TeamDefinition
    ) -> tuple[pb2.StageStatus, str]:
        """The one stage with those of the team that carries it out, and which of these was
        reached."""
        workflow = await self._catalog.workflow(conversation.workflow)
        name = workflow.stages[0].id if workflow and workflow.stages else conversation.workflow
        run = conversation.run
        status = _status_of(conversation)
        whole = pb2.StageStatus(
            id=name, status=status, run_ids=[run.run_id], result=conversation.summary
        )
        whole.started_at.CopyFrom(run.started_at)
        if run.HasField("ended_at"):
            whole.completed_at.CopyFrom(run.ended_at)
        if not team.stages:
            return whole, ""
        names = [stage.name for stage in team.stages]
        commits = await self._newest_commits(conversation, len(names) + 1)
        progress = progress_of(names, run.rounds, run.started_at.ToDatetime(UTC), commits, status)
        whole.stages.extend(map(_stage_status, progress))
        return whole, reached(progress)

    async def _newest_commits(self, conversation: Conversation, count: int) -> list[datetime]:
        """When the last turns of the newest run were committed, oldest first."""
        page = await self._conversations.ListEvents(
            store_pb2.ListEventsRequest(
                conversation_id=conversation.conversation_id,
                newest_first=True,
                page_size=count,
                filter=store_pb2.EventFilter(
                    kinds=["turn_committed"], run_ids=[conversation.run.run_id]
                ),
            )
        )
        return [event.time.ToDatetime(UTC) for event in reversed(page.events)]

    async def _page(
        self, kind: catalog_pb2.DocumentKind.ValueType, size: int, token: str
    ) -> catalog_pb2.ListDocumentsResponse:
        return await self._store.ListDocuments(
            catalog_pb2.ListDocumentsRequest(kind=kind, page_size=size, page_token=token)
        )


def _require_executable(workflow: WorkflowDefinition) -> None:
    """What another version wrote may ask for more than this one can do."""
    faults = definition_faults(workflow, "workflow")
    if faults:
        raise MeshError.precondition(
            errors_pb2.ERROR_REASON_INVALID_DEFINITION,
            f'the workflow "{workflow.id}" cannot be executed: '
            f"{faults[0].field}: {faults[0].description}",
            path=faults[0].field,
        )


def _status_of(conversation: Conversation) -> str:
    if conversation.status == CONVERSATION_STATUS_RUNNING:
        return RUNNING
    if conversation.status in (CONVERSATION_STATUS_WAITING, CONVERSATION_STATUS_PAUSED):
        return WAITING
    return COMPLETED if conversation.status == CONVERSATION_STATUS_COMPLETED else FAILED


def _stage_status(progress: Progress) -> pb2.StageStatus:
    found = pb2.StageStatus(id=progress.name, status=progress.status)
    if progress.started_at is not None:
        found.started_at.FromDatetime(progress.started_at)
    if progress.completed_at is not None:
        found.completed_at.FromDatetime(progress.completed_at)
    return found


def _split(page_token: str) -> tuple[str, str]:
    if not page_token:
        return _WORKFLOWS, ""
    part, token = page_token[0], page_token[1:]
    if part not in (_WORKFLOWS, _TEAMS):
        raise MeshError.invalid("page_token", "is none that an earlier page gave")
    return part, token
