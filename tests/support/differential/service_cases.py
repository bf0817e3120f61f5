"""Cases of all services but ConversationService."""

from __future__ import annotations

from collections.abc import Sequence

from agentmesh.catalog.v1.agent_pb2 import LlmConfig
from agentmesh.catalog.v1.team_pb2 import Participant
from agentmesh.catalog.v1.workflow_pb2 import WorkflowDefinition, WorkflowStage
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1.event_pb2 import APPROVAL_STATUS_ANSWERED
from agentmesh.conversation_store.v1.ledger_service_pb2 import TenantPolicy
from agentmesh.gateway.v1 import admin_service_pb2 as admin
from agentmesh.gateway.v1 import agent_service_pb2 as agents
from agentmesh.gateway.v1 import approval_service_pb2 as approvals
from agentmesh.gateway.v1 import artifact_service_pb2 as artifacts
from agentmesh.gateway.v1 import blob_service_pb2 as blobs
from agentmesh.gateway.v1 import tool_service_pb2 as tools
from agentmesh.gateway.v1 import usage_service_pb2 as usage
from agentmesh.gateway.v1 import workflow_service_pb2 as workflows
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.tool_runner.v1.tool_runner_service_pb2 import EXECUTION_LANGUAGE_PYTHON
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from tests.support.differential.registry import changes, reads
from tests.support.differential.world import FILE, World

# --- approvals ---------------------------------------------------------------------------------


@reads("ApprovalService.ListApprovals")
async def _approvals(world: World) -> Message:
    conversation_id, _ = await world.shared_waiting()
    return approvals.ListApprovalsRequest(conversation_id=conversation_id)


@reads("ApprovalService.GetApproval")
async def _approval(world: World) -> Message:
    _, approval_id = await world.shared_waiting()
    return approvals.GetApprovalRequest(approval_id=approval_id, context_messages=3)


@changes("ApprovalService.ResolveApproval")
async def _resolve(world: World) -> Message:
    _, approval_id = await world.waiting()
    return approvals.ResolveApprovalRequest(
        approval_id=approval_id, decision=APPROVAL_STATUS_ANSWERED, comment="42"
    )


# --- agents ------------------------------------------------------------------------------------


@reads("AgentService.ListAgents")
async def _agents(world: World) -> Message:
    return agents.ListAgentsRequest(built_in=True, page_size=2)


@reads("AgentService.GetAgent")
async def _agent(world: World) -> Message:
    return agents.GetAgentRequest(agent_id="developer")


@reads("AgentService.ListAgentVersions")
async def _agent_versions(world: World) -> Message:
    return agents.ListAgentVersionsRequest(agent_id=world.agent_id)


@changes("AgentService.RegisterAgent")
async def _register(world: World) -> Message:
    config = agents.AgentConfig(
        role="r", system_message="s", tools=["code_executor"], llm_config=LlmConfig(temperature=0.1)
    )
    return agents.RegisterAgentRequest(name=world.name(), config=config)


@changes("AgentService.UpdateAgent")
async def _update_agent(world: World) -> Message:
    return agents.UpdateAgentRequest(
        agent_id=await world.agent(),
        config=agents.AgentConfig(llm_config=LlmConfig(temperature=0.5)),
        update_mask=FieldMask(paths=["llm_config.temperature"]),
    )


@changes("AgentService.CloneAgent")
async def _clone(world: World) -> Message:
    return agents.CloneAgentRequest(agent_id="developer", name=world.name())


@changes("AgentService.DeleteAgent")
async def _delete_agent(world: World) -> Message:
    return agents.DeleteAgentRequest(agent_id=await world.agent(), request_id=world.name())


@reads("AgentService.CheckAgentsHealth")
async def _agents_health(world: World) -> Message:
    return agents.CheckAgentsHealthRequest()


@reads("AgentService.ListModels")
async def _models(world: World) -> Message:
    return agents.ListModelsRequest()


# --- workflows ---------------------------------------------------------------------------------


@changes("WorkflowService.ExecuteWorkflow")
async def _execute_workflow(world: World) -> Message:
    request = workflows.ExecuteWorkflowRequest(workflow_id="software_development")
    request.parameters.update({"task": "hello"})
    return request


@reads("WorkflowService.GetWorkflowStatus")
async def _workflow_status(world: World) -> Message:
    return workflows.GetWorkflowStatusRequest(execution_id=await world.shared_execution())


@reads("WorkflowService.ListWorkflows")
async def _workflows(world: World) -> Message:
    return workflows.ListWorkflowsRequest(page_size=1)


@changes("WorkflowService.RegisterWorkflow")
async def _register_workflow(world: World) -> Message:
    stage = WorkflowStage(id="review", task="Review it.", team=Participant(agent_id="reviewer"))
    return workflows.RegisterWorkflowRequest(
        workflow=WorkflowDefinition(id=world.name(), stages=[stage])
    )


# --- tools and files ---------------------------------------------------------------------------


@reads("ToolService.ListTools")
async def _tools(world: World) -> Message:
    return tools.ListToolsRequest()


@changes("ToolService.ExecuteCode", without=["usage"])
async def _execute(world: World) -> Message:
    return tools.ExecuteCodeRequest(
        language=EXECUTION_LANGUAGE_PYTHON,
        code="import os; os.write(1, os.read(0, 9))",
        stdin=b"\xc3\xa4\n",
    )


@reads("ToolService.GetSandboxCapabilities")
async def _capabilities(world: World) -> Message:
    return tools.GetSandboxCapabilitiesRequest()


@reads("ArtifactService.ListArtifacts")
async def _artifacts(world: World) -> Message:
    return artifacts.ListArtifactsRequest(conversation_id=world.conversation_id, glob="**/*.txt")


@reads("ArtifactService.DownloadArtifact")
async def _download(world: World) -> Message:
    return artifacts.DownloadArtifactRequest(
        conversation_id=world.conversation_id, path=FILE, offset=1
    )


@reads("ArtifactService.GetArtifact")
async def _artifact(world: World) -> Message:
    return artifacts.GetArtifactRequest(
        conversation_id=world.conversation_id, path=FILE, with_sha256=True
    )


@changes("ArtifactService.UploadArtifact")
async def _upload(world: World) -> Sequence[Message]:
    conversation_id = await world.finished()
    first = artifacts.UploadArtifactRequest(
        conversation_id=conversation_id, path="a b/ä.bin", size_bytes=4, must_not_exist=True
    )
    return [first, *(artifacts.UploadArtifactRequest(chunk=part) for part in (b"\0\1", b"\2\3"))]


@changes("ArtifactService.DeleteArtifact")
async def _delete_artifact(world: World) -> Message:
    conversation_id = await world.finished()
    await world.with_file(conversation_id)
    return artifacts.DeleteArtifactRequest(conversation_id=conversation_id, path=FILE)


@reads("ArtifactService.ListArtifactVersions")
async def _artifact_versions(world: World) -> Message:
    conversation_id, _ = await world.shared_version()
    return artifacts.ListArtifactVersionsRequest(conversation_id=conversation_id)


@changes("ArtifactService.RestoreArtifactVersion")
async def _restore(world: World) -> Message:
    conversation_id, version_id = await world.with_version()
    return artifacts.RestoreArtifactVersionRequest(
        conversation_id=conversation_id, version_id=version_id
    )


@changes("BlobService.UploadBlob")
async def _upload_blob(world: World) -> Sequence[Message]:
    return [blobs.UploadBlobRequest(chunk=b"more", size_bytes=4)]


@reads("BlobService.DownloadBlob")
async def _download_blob(world: World) -> Message:
    return blobs.DownloadBlobRequest(digest=world.digest, offset=2)


# --- usage and administration ------------------------------------------------------------------


@reads("UsageService.SummarizeUsage")
async def _usage(world: World) -> Message:
    return usage.SummarizeUsageRequest()


@changes("AdminService.CreateKey")
async def _create_key(world: World) -> Message:
    return admin.CreateKeyRequest(
        role=options_pb2.ROLE_VIEWER, name="a key", scopes=["usage:read"], request_id=world.name()
    )


@reads("AdminService.ListKeys", without=["last_used_at", "last_used_time"])
async def _keys(world: World) -> Message:
    return admin.ListKeysRequest(page_size=1)


async def _key(world: World) -> str:
    made = await AdminServiceStub(world.channel).CreateKey(
        admin.CreateKeyRequest(role=options_pb2.ROLE_VIEWER)
    )
    return made.key.key_id


@changes("AdminService.RotateKey")
async def _rotate(world: World) -> Message:
    return admin.RotateKeyRequest(key_id=await _key(world))


@changes("AdminService.RevokeKey")
async def _revoke(world: World) -> Message:
    return admin.RevokeKeyRequest(key_id=await _key(world))


@reads("AdminService.GetTenantPolicy")
async def _policy(world: World) -> Message:
    return admin.GetTenantPolicyRequest()


@changes("AdminService.PutTenantPolicy")
async def _put_policy(world: World) -> Message:
    return admin.PutTenantPolicyRequest(policy=TenantPolicy(), request_id=world.name())


@reads("AdminService.ListAudit")
async def _audit(world: World) -> Message:
    request = admin.ListAuditRequest(page_size=1)
    request.to_time.FromJsonString("2024-01-01T00:00:00Z")
    return request


@reads("AdminService.CheckHealth")
async def _health(world: World) -> Message:
    return admin.CheckHealthRequest()
