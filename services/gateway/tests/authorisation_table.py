"""What each public method asks of a conversation, and a request that passes everything else.

A method that is not here has not been thought about: a test fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import grpc
from agentmesh.conversation.v1 import event_pb2, stream_pb2
from agentmesh.gateway.v1 import (
    approval_service_pb2,
    artifact_service_pb2,
    blob_service_pb2,
    conversation_service_pb2,
    tool_service_pb2,
    workflow_service_pb2,
)
from agentmesh.tool_runner.v1 import tool_runner_service_pb2

Code = grpc.StatusCode
pb2 = conversation_service_pb2
files = artifact_service_pb2


class Need(IntEnum):
    """What a method has to be allowed in the conversation that it is about, if it is about one."""

    NOTHING = 0
    READ = 1
    WRITE = 2
    SHARE = 3


@dataclass(frozen=True)
class Place:
    """What a request can be about."""

    conversation_id: str = ""
    approval_id: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Asked:
    """`messages` are those of the request; `allowed` is the code of callers who may call it."""

    messages: Callable[[Place], list[Any]]
    need: Need = Need.NOTHING
    allowed: grpc.StatusCode = Code.OK
    changes: bool = False
    """Whether the next call should find another conversation."""


def _in_conversation(request: Any, **fields: Any) -> Callable[[Place], list[Any]]:
    return lambda place: [request(conversation_id=place.conversation_id, **fields)]


def _as_it_is(*messages: Any) -> Callable[[Place], list[Any]]:
    return lambda _: list(messages)


def _read(request: Any, allowed: grpc.StatusCode = Code.OK, **fields: Any) -> Asked:
    return Asked(_in_conversation(request, **fields), Need.READ, allowed)


def _write(request: Any, allowed: grpc.StatusCode = Code.OK, **fields: Any) -> Asked:
    return Asked(_in_conversation(request, **fields), Need.WRITE, allowed, changes=True)


def _share(request: Any, **fields: Any) -> Asked:
    return Asked(_in_conversation(request, **fields), Need.SHARE, changes=True)


EMPTY = Asked(lambda _: [])
"""The empty request."""
INCOMPLETE = Asked(lambda _: [], allowed=Code.INVALID_ARGUMENT)
"""The empty request where something is required: found out only of those who may call."""
NO_RUNNER = Code.UNIMPLEMENTED
"""What the tool_runner of the test says to everything."""

TABLE: dict[str, Asked] = {
    "ConversationService/StartConversation": Asked(
        _as_it_is(pb2.StartConversationRequest(task="do it", agents=["developer"]))
    ),
    "ConversationService/GetConversation": _read(pb2.GetConversationRequest),
    "ConversationService/ListConversations": EMPTY,
    "ConversationService/SendMessage": _write(pb2.SendMessageRequest, content="more"),
    "ConversationService/SubscribeConversation": _read(
        pb2.SubscribeConversationRequest, until=stream_pb2.SUBSCRIBE_UNTIL_HEAD
    ),
    "ConversationService/Converse": Asked(
        lambda place: [
            pb2.ConverseRequest(open=pb2.ConverseOpen(conversation_id=place.conversation_id)),
            pb2.ConverseRequest(finish=pb2.ConverseFinish()),
        ],
        Need.READ,
    ),
    "ConversationService/ListEvents": _read(pb2.ListEventsRequest),
    "ConversationService/CancelConversation": _write(pb2.CancelConversationRequest),
    "ConversationService/PauseConversation": _write(pb2.PauseConversationRequest),
    "ConversationService/ResumeConversation": _write(pb2.ResumeConversationRequest),
    "ConversationService/UpdateConversation": _write(
        pb2.UpdateConversationRequest, conversation=pb2.ConversationPatch(labels={"a": "b"})
    ),
    "ConversationService/ForkConversation": _read(pb2.ForkConversationRequest),
    "ConversationService/DeleteConversation": _write(pb2.DeleteConversationRequest),
    "ConversationService/ShareConversation": _share(pb2.ShareConversationRequest, subject="key_x"),
    "ConversationService/UnshareConversation": _share(
        pb2.UnshareConversationRequest, subject="key_x"
    ),
    "ConversationService/ListGrants": _share(pb2.ListGrantsRequest),
    "ConversationService/SubscribeTenant": EMPTY,
    "ConversationService/ExportConversation": _read(pb2.ExportConversationRequest),
    "ConversationService/ImportConversation": Asked(
        _as_it_is(pb2.ImportConversationRequest(chunk=b"nothing")), allowed=Code.INVALID_ARGUMENT
    ),
    "ConversationService/DebugConversation": _read(pb2.DebugConversationRequest),
    "ConversationService/GetTrace": _read(pb2.GetTraceRequest),
    "ConversationService/CheckConversationsHealth": EMPTY,
    "ApprovalService/ListApprovals": EMPTY,
    "ApprovalService/GetApproval": Asked(
        lambda place: [approval_service_pb2.GetApprovalRequest(approval_id=place.approval_id)],
        Need.READ,
    ),
    "ApprovalService/ResolveApproval": Asked(
        lambda place: [
            approval_service_pb2.ResolveApprovalRequest(
                approval_id=place.approval_id, decision=event_pb2.APPROVAL_STATUS_REJECTED
            )
        ],
        Need.WRITE,
    ),
    "AgentService/ListAgents": EMPTY,
    "AgentService/GetAgent": INCOMPLETE,
    "AgentService/ListAgentVersions": INCOMPLETE,
    "AgentService/RegisterAgent": INCOMPLETE,
    "AgentService/UpdateAgent": INCOMPLETE,
    "AgentService/CloneAgent": INCOMPLETE,
    "AgentService/DeleteAgent": INCOMPLETE,
    "AgentService/ListModels": EMPTY,
    "AgentService/CheckAgentsHealth": EMPTY,
    "WorkflowService/ExecuteWorkflow": INCOMPLETE,
    "WorkflowService/GetWorkflowStatus": Asked(
        lambda place: [
            workflow_service_pb2.GetWorkflowStatusRequest(execution_id=place.conversation_id)
        ],
        Need.READ,
    ),
    "WorkflowService/ListWorkflows": EMPTY,
    "WorkflowService/RegisterWorkflow": INCOMPLETE,
    "ToolService/ListTools": EMPTY,
    "ToolService/ExecuteCode": Asked(
        _as_it_is(
            tool_service_pb2.ExecuteCodeRequest(
                language=tool_runner_service_pb2.EXECUTION_LANGUAGE_PYTHON, code="1"
            )
        ),
        allowed=NO_RUNNER,
    ),
    "ToolService/GetSandboxCapabilities": Asked(lambda _: [], allowed=NO_RUNNER),
    "ArtifactService/ListArtifacts": _read(files.ListArtifactsRequest, NO_RUNNER),
    "ArtifactService/DownloadArtifact": _read(files.DownloadArtifactRequest, NO_RUNNER, path="a"),
    "ArtifactService/GetArtifact": _read(files.GetArtifactRequest, NO_RUNNER, path="a"),
    "ArtifactService/UploadArtifact": _write(
        files.UploadArtifactRequest, NO_RUNNER, path="a", chunk=b"x"
    ),
    "ArtifactService/DeleteArtifact": _write(files.DeleteArtifactRequest, NO_RUNNER, path="a"),
    "ArtifactService/ListArtifactVersions": _read(files.ListArtifactVersionsRequest, NO_RUNNER),
    "ArtifactService/RestoreArtifactVersion": _write(
        files.RestoreArtifactVersionRequest, NO_RUNNER, version_id="v"
    ),
    "BlobService/UploadBlob": Asked(
        _as_it_is(blob_service_pb2.UploadBlobRequest(size_bytes=1, chunk=b"x"))
    ),
    "BlobService/DownloadBlob": Asked(
        lambda place: [blob_service_pb2.DownloadBlobRequest(digest=place.digest)]
    ),
    "UsageService/SummarizeUsage": EMPTY,
    "AdminService/CreateKey": INCOMPLETE,
    "AdminService/ListKeys": EMPTY,
    "AdminService/RotateKey": INCOMPLETE,
    "AdminService/RevokeKey": INCOMPLETE,
    "AdminService/GetTenantPolicy": EMPTY,
    "AdminService/PutTenantPolicy": INCOMPLETE,
    "AdminService/ListAudit": EMPTY,
    "AdminService/CheckHealth": EMPTY,
}
"""By service and method. Methods that need more than a role and a conversation have other tests."""
