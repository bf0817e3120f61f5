"""One call of each public method that succeeds, as requests made of the state of the world.

A case of a mutation makes requests about another object each time it is asked, so that both edges
find the same state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agentmesh.catalog.v1.agent_pb2 import LlmConfig
from agentmesh.catalog.v1.team_pb2 import Participant
from agentmesh.catalog.v1.workflow_pb2 import WorkflowDefinition, WorkflowStage
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1.event_pb2 import APPROVAL_STATUS_ANSWERED
from agentmesh.conversation.v1.stream_pb2 import SUBSCRIBE_UNTIL_HEAD
from agentmesh.conversation_store.v1.conversation_store_service_pb2 import EventFilter
from agentmesh.conversation_store.v1.ledger_service_pb2 import TenantPolicy
from agentmesh.gateway.v1 import admin_service_pb2 as admin
from agentmesh.gateway.v1 import agent_service_pb2 as agents
from agentmesh.gateway.v1 import approval_service_pb2 as approvals
from agentmesh.gateway.v1 import artifact_service_pb2 as artifacts
from agentmesh.gateway.v1 import blob_service_pb2 as blobs
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1 import tool_service_pb2 as tools
from agentmesh.gateway.v1 import usage_service_pb2 as usage
from agentmesh.gateway.v1 import workflow_service_pb2 as workflows
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.tool_runner.v1.tool_runner_service_pb2 import EXECUTION_LANGUAGE_PYTHON
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from tests.support.differential.world import FILE, World

Make = Callable[[World], Awaitable[Message | Sequence[Message]]]


@dataclass(frozen=True)
class Case:
    """How to call one method."""

    make: Make
    reads: bool
    """Both calls are about the same, so that the answers are the same to the last byte."""
    items: int = 0
    """How many to take of a stream that does not end."""
    without: frozenset[str] = frozenset()
    """Fields that differ from call to call."""


CASES: dict[str, Case] = {}
"""By the full name of the method without its package."""


def _reads(name: str, *, items: int = 0, without: Sequence[str] = ()) -> Callable[[Make], Make]:
    return _case(name, reads=True, items=items, without=without)


def _changes(name: str, *, without: Sequence[str] = ()) -> Callable[[Make], Make]:
    return _case(name, reads=False, items=0, without=without)


def _case(name: str, *, reads: bool, items: int, without: Sequence[str]) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        CASES[name] = Case(make, reads, items, frozenset(without))
        return make

    return add


# --- conversations -----------------------------------------------------------------------------


@_changes("ConversationService.StartConversation")
async def _start(world: World) -> Message:
    return conversations.StartConversationRequest(
        task="hello", agents=["reviewer"], max_rounds=1, labels={"a": "ö"}, request_id=world.name()
    )


@_reads("ConversationService.GetConversation")
async def _get(world: World) -> Message:
    return conversations.GetConversationRequest(conversation_id=world.conversation_id)


@_reads("ConversationService.ListConversations")
async def _list(world: World) -> Message:
    return conversations.ListConversationsRequest(page_size=1, agent="reviewer")


@_changes("ConversationService.SendMessage")
async def _send(world: World) -> Message:
    conversation_id, _ = await world.waiting()
    return conversations.SendMessageRequest(
        conversation_id=conversation_id, content="go on\u2028", request_id=world.name()
    )


@_reads("ConversationService.SubscribeConversation")
async def _subscribe(world: World) -> Message:
    return conversations.SubscribeConversationRequest(
        conversation_id=world.conversation_id, until=SUBSCRIBE_UNTIL_HEAD, after_sequence=1
    )


@_reads("ConversationService.ListEvents")
async def _events(world: World) -> Message:
    return conversations.ListEventsRequest(
        conversation_id=world.conversation_id,
        newest_first=True,
        filter=EventFilter(kinds=["message", "run_ended"]),
    )


@_changes("ConversationService.CancelConversation")
async def _cancel(world: World) -> Message:
    conversation_id, _ = await world.waiting()
    return conversations.CancelConversationRequest(conversation_id=conversation_id, reason="no")


@_changes("ConversationService.PauseConversation")
async def _pause(world: World) -> Message:
    conversation_id, _ = await world.waiting()
    return conversations.PauseConversationRequest(conversation_id=conversation_id)


@_changes("ConversationService.ResumeConversation")
async def _resume(world: World) -> Message:
    return conversations.ResumeConversationRequest(conversation_id=await world.paused())


@_changes("ConversationService.UpdateConversation", without=["size_bytes"])
async def _update(world: World) -> Message:
    patch = conversations.ConversationPatch(labels={"k": "v"}, max_rounds=3)
    return conversations.UpdateConversationRequest(
        conversation_id=await world.finished(),
        conversation=patch,
        update_mask=FieldMask(paths=["labels", "max_rounds"]),
    )


@_changes("ConversationService.ForkConversation")
async def _fork(world: World) -> Message:
    return conversations.ForkConversationRequest(conversation_id=world.conversation_id)


@_changes("ConversationService.ShareConversation", without=["granted_at"])
async def _share(world: World) -> Message:
    return conversations.ShareConversationRequest(
        conversation_id=world.conversation_id, role=options_pb2.ROLE_USER
    )


@_changes("ConversationService.UnshareConversation")
async def _unshare(world: World) -> Message:
    return conversations.UnshareConversationRequest(
        conversation_id=world.conversation_id, subject="key_of_somebody"
    )


@_reads("ConversationService.ListGrants")
async def _list_grants(world: World) -> Message:
    return conversations.ListGrantsRequest(conversation_id=world.conversation_id)


@_changes("ConversationService.DeleteConversation")
async def _delete(world: World) -> Message:
    return conversations.DeleteConversationRequest(conversation_id=await world.finished())


@_reads("ConversationService.SubscribeTenant", items=1, without=["time"])
async def _subscribe_tenant(world: World) -> Message:
    # At once a heartbeat says where the stream begins.
    return conversations.SubscribeTenantRequest(filter=EventFilter(kinds=["redacted"]))


@_reads("ConversationService.ExportConversation")
async def _export(world: World) -> Message:
    return conversations.ExportConversationRequest(conversation_id=world.conversation_id)


@_changes("ConversationService.ImportConversation")
async def _import(world: World) -> Sequence[Message]:
    exported = await world.exported()
    half = len(exported) // 2
    return [
        conversations.ImportConversationRequest(chunk=exported[:half], request_id=world.name()),
        conversations.ImportConversationRequest(chunk=exported[half:]),
    ]


@_reads("ConversationService.DebugConversation")
async def _debug(world: World) -> Message:
    return conversations.DebugConversationRequest(conversation_id=world.conversation_id)


@_reads("ConversationService.GetTrace", without=["spans"])
async def _trace(world: World) -> Message:
    # Looking at a trace makes spans of its own.
    return conversations.GetTraceRequest(conversation_id=world.conversation_id)


@_reads("ConversationService.CheckConversationsHealth")
async def _conversations_health(world: World) -> Message:
    return conversations.CheckConversationsHealthRequest()


# --- approvals ---------------------------------------------------------------------------------


@_reads("ApprovalService.ListApprovals")
async def _approvals(world: World) -> Message:
    conversation_id, _ = await world.shared_waiting()
    return approvals.ListApprovalsRequest(conversation_id=conversation_id)


@_reads("ApprovalService.GetApproval")
async def _approval(world: World) -> Message:
    _, approval_id = await world.shared_waiting()
    return approvals.GetApprovalRequest(approval_id=approval_id, context_messages=3)


@_changes("ApprovalService.ResolveApproval")
async def _resolve(world: World) -> Message:
    _, approval_id = await world.waiting()
    return approvals.ResolveApprovalRequest(
        approval_id=approval_id, decision=APPROVAL_STATUS_ANSWERED, comment="42"
    )


# --- agents ------------------------------------------------------------------------------------


@_reads("AgentService.ListAgents")
async def _agents(world: World) -> Message:
    return agents.ListAgentsRequest(built_in=True, page_size=2)


@_reads("AgentService.GetAgent")
async def _agent(world: World) -> Message:
    return agents.GetAgentRequest(agent_id="developer")


@_reads("AgentService.ListAgentVersions")
async def _agent_versions(world: World) -> Message:
    return agents.ListAgentVersionsRequest(agent_id=world.agent_id)


@_changes("AgentService.RegisterAgent")
async def _register(world: World) -> Message:
    config = agents.AgentConfig(
        role="r", system_message="s", tools=["code_executor"], llm_config=LlmConfig(temperature=0.1)
    )
    return agents.RegisterAgentRequest(name=world.name(), config=config)


@_changes("AgentService.UpdateAgent")
async def _update_agent(world: World) -> Message:
    return agents.UpdateAgentRequest(
        agent_id=await world.agent(),
        config=agents.AgentConfig(llm_config=LlmConfig(temperature=0.5)),
        update_mask=FieldMask(paths=["llm_config.temperature"]),
    )


@_changes("AgentService.CloneAgent")
async def _clone(world: World) -> Message:
    return agents.CloneAgentRequest(agent_id="developer", name=world.name())


@_changes("AgentService.DeleteAgent")
async def _delete_agent(world: World) -> Message:
    return agents.DeleteAgentRequest(agent_id=await world.agent(), request_id=world.name())


@_reads("AgentService.CheckAgentsHealth")
async def _agents_health(world: World) -> Message:
    return agents.CheckAgentsHealthRequest()


@_reads("AgentService.ListModels")
async def _models(world: World) -> Message:
    return agents.ListModelsRequest()


# --- workflows ---------------------------------------------------------------------------------


@_changes("WorkflowService.ExecuteWorkflow")
async def _execute_workflow(world: World) -> Message:
    request = workflows.ExecuteWorkflowRequest(workflow_id="software_development")
    request.parameters.update({"task": "hello"})
    return request


@_reads("WorkflowService.GetWorkflowStatus")
async def _workflow_status(world: World) -> Message:
    return workflows.GetWorkflowStatusRequest(execution_id=await world.shared_execution())


@_reads("WorkflowService.ListWorkflows")
async def _workflows(world: World) -> Message:
    return workflows.ListWorkflowsRequest(page_size=1)


@_changes("WorkflowService.RegisterWorkflow")
async def _register_workflow(world: World) -> Message:
    stage = WorkflowStage(id="review", task="Review it.", team=Participant(agent_id="reviewer"))
    return workflows.RegisterWorkflowRequest(
        workflow=WorkflowDefinition(id=world.name(), stages=[stage])
    )


# --- tools and files ---------------------------------------------------------------------------


@_reads("ToolService.ListTools")
async def _tools(world: World) -> Message:
    return tools.ListToolsRequest()


@_changes("ToolService.ExecuteCode", without=["usage"])
async def _execute(world: World) -> Message:
    return tools.ExecuteCodeRequest(
        language=EXECUTION_LANGUAGE_PYTHON,
        code="import os; os.write(1, os.read(0, 9))",
        stdin=b"\xc3\xa4\n",
    )


@_reads("ToolService.GetSandboxCapabilities")
async def _capabilities(world: World) -> Message:
    return tools.GetSandboxCapabilitiesRequest()


@_reads("ArtifactService.ListArtifacts")
async def _artifacts(world: World) -> Message:
    return artifacts.ListArtifactsRequest(conversation_id=world.conversation_id, glob="**/*.txt")


@_reads("ArtifactService.DownloadArtifact")
async def _download(world: World) -> Message:
    return artifacts.DownloadArtifactRequest(
        conversation_id=world.conversation_id, path=FILE, offset=1
    )


@_reads("ArtifactService.GetArtifact")
async def _artifact(world: World) -> Message:
    return artifacts.GetArtifactRequest(
        conversation_id=world.conversation_id, path=FILE, with_sha256=True
    )


@_changes("ArtifactService.UploadArtifact")
async def _upload(world: World) -> Sequence[Message]:
    conversation_id = await world.finished()
    first = artifacts.UploadArtifactRequest(
        conversation_id=conversation_id, path="a b/ä.bin", size_bytes=4, must_not_exist=True
    )
    return [first, *(artifacts.UploadArtifactRequest(chunk=part) for part in (b"\0\1", b"\2\3"))]


@_changes("ArtifactService.DeleteArtifact")
async def _delete_artifact(world: World) -> Message:
    conversation_id = await world.finished()
    await world.with_file(conversation_id)
    return artifacts.DeleteArtifactRequest(conversation_id=conversation_id, path=FILE)


@_reads("ArtifactService.ListArtifactVersions")
async def _artifact_versions(world: World) -> Message:
    conversation_id, _ = await world.shared_version()
    return artifacts.ListArtifactVersionsRequest(conversation_id=conversation_id)


@_changes("ArtifactService.RestoreArtifactVersion")
async def _restore(world: World) -> Message:
    conversation_id, version_id = await world.with_version()
    return artifacts.RestoreArtifactVersionRequest(
        conversation_id=conversation_id, version_id=version_id
    )


@_changes("BlobService.UploadBlob")
async def _upload_blob(world: World) -> Sequence[Message]:
    return [blobs.UploadBlobRequest(chunk=b"more", size_bytes=4)]


@_reads("BlobService.DownloadBlob")
async def _download_blob(world: World) -> Message:
    return blobs.DownloadBlobRequest(digest=world.digest, offset=2)


# --- usage and administration ------------------------------------------------------------------


@_reads("UsageService.SummarizeUsage")
async def _usage(world: World) -> Message:
    return usage.SummarizeUsageRequest()


@_changes("AdminService.CreateKey")
async def _create_key(world: World) -> Message:
    return admin.CreateKeyRequest(
        role=options_pb2.ROLE_VIEWER, name="a key", scopes=["usage:read"], request_id=world.name()
    )


@_reads("AdminService.ListKeys", without=["last_used_at", "last_used_time"])
async def _keys(world: World) -> Message:
    return admin.ListKeysRequest(page_size=1)


async def _key(world: World) -> str:
    made = await AdminServiceStub(world.channel).CreateKey(
        admin.CreateKeyRequest(role=options_pb2.ROLE_VIEWER)
    )
    return made.key.key_id


@_changes("AdminService.RotateKey")
async def _rotate(world: World) -> Message:
    return admin.RotateKeyRequest(key_id=await _key(world))


@_changes("AdminService.RevokeKey")
async def _revoke(world: World) -> Message:
    return admin.RevokeKeyRequest(key_id=await _key(world))


@_reads("AdminService.GetTenantPolicy")
async def _policy(world: World) -> Message:
    return admin.GetTenantPolicyRequest()


@_changes("AdminService.PutTenantPolicy")
async def _put_policy(world: World) -> Message:
    return admin.PutTenantPolicyRequest(policy=TenantPolicy(), request_id=world.name())


@_reads("AdminService.ListAudit")
async def _audit(world: World) -> Message:
    request = admin.ListAuditRequest(page_size=1)
    request.to_time.FromJsonString("2024-01-01T00:00:00Z")
    return request


@_reads("AdminService.CheckHealth")
async def _health(world: World) -> Message:
    return admin.CheckHealthRequest()
