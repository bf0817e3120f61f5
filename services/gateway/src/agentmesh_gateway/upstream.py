"""The other services of the mesh, as this one calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import grpc
from agentmesh.agent_runtime.v1.agent_runtime_service_pb2_grpc import AgentRuntimeServiceStub
from agentmesh.conversation_store.v1 import blob_service_pb2 as blob_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.conversation_store.v1.approval_store_service_pb2_grpc import (
    ApprovalStoreServiceStub,
)
from agentmesh.conversation_store.v1.blob_service_pb2_grpc import BlobServiceStub
from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceStub
from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
    ConversationStoreServiceStub,
)
from agentmesh.conversation_store.v1.identity_service_pb2_grpc import IdentityServiceStub
from agentmesh.conversation_store.v1.ledger_service_pb2_grpc import LedgerServiceStub
from agentmesh.conversation_store.v1.request_service_pb2_grpc import RequestServiceStub
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as runner_pb2
from agentmesh.tool_runner.v1.tool_runner_service_pb2_grpc import ToolRunnerServiceStub
from google.protobuf.message import Message
from meshkit.channels import MeshChannels

from agentmesh_gateway.settings import GatewaySettings

if TYPE_CHECKING:
    # Only the stubs' type information has these names.
    from agentmesh.agent_runtime.v1.agent_runtime_service_pb2_grpc import (
        AgentRuntimeServiceAsyncStub,
    )
    from agentmesh.conversation_store.v1.approval_store_service_pb2_grpc import (
        ApprovalStoreServiceAsyncStub,
    )
    from agentmesh.conversation_store.v1.blob_service_pb2_grpc import BlobServiceAsyncStub
    from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
        ConversationStoreServiceAsyncStub,
    )
    from agentmesh.conversation_store.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub
    from agentmesh.conversation_store.v1.ledger_service_pb2_grpc import LedgerServiceAsyncStub
    from agentmesh.conversation_store.v1.request_service_pb2_grpc import RequestServiceAsyncStub
    from agentmesh.tool_runner.v1.tool_runner_service_pb2_grpc import ToolRunnerServiceAsyncStub

STORE = "conversation_store"
RUNTIME = "agent_runtime"
TOOL_RUNNER = "tool_runner"

_SUBSCRIBE = "/agentmesh.conversation_store.v1.ConversationStoreService/SubscribeConversation"
_SUBSCRIBE_TENANT = "/agentmesh.conversation_store.v1.ConversationStoreService/SubscribeTenant"
_DOWNLOAD_BLOB = "/agentmesh.conversation_store.v1.BlobService/DownloadBlob"
_EXECUTE = "/agentmesh.tool_runner.v1.ToolRunnerService/Execute"
_READ_FILE = "/agentmesh.tool_runner.v1.ToolRunnerService/ReadFile"

_Request = TypeVar("_Request", bound=Message)
BytesStream: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[_Request, bytes]"
"""A stream whose responses come as bytes: the public contract has the same message for them."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Channels and stubs of the services that the gateway calls."""

    channels: dict[str, grpc.aio.Channel]
    """By service name."""
    conversations: ConversationStoreServiceAsyncStub
    subscribe_bytes: BytesStream[store_pb2.SubscribeConversationRequest]
    subscribe_tenant_bytes: BytesStream[store_pb2.SubscribeTenantRequest]
    approvals: ApprovalStoreServiceAsyncStub
    blobs: BlobServiceAsyncStub
    download_blob_bytes: BytesStream[blob_pb2.DownloadBlobRequest]
    catalog: CatalogServiceAsyncStub
    keys: IdentityServiceAsyncStub
    ledger: LedgerServiceAsyncStub
    requests: RequestServiceAsyncStub
    runtime: AgentRuntimeServiceAsyncStub
    tools: ToolRunnerServiceAsyncStub
    execute_bytes: BytesStream[runner_pb2.ExecuteRequest]
    read_file_bytes: BytesStream[runner_pb2.ReadFileRequest]


def connect(channels: MeshChannels, settings: GatewaySettings) -> Upstream:
    """Stubs over channels that connect when they are first used."""
    store = channels.channel(settings.store_address, STORE)
    runtime = channels.channel(settings.runtime_address, RUNTIME)
    tool_runner = channels.channel(settings.tool_runner_address, TOOL_RUNNER)
    return Upstream(
        channels={STORE: store, RUNTIME: runtime, TOOL_RUNNER: tool_runner},
        conversations=ConversationStoreServiceStub(store),
        subscribe_bytes=_bytes_stream(store, _SUBSCRIBE, store_pb2.SubscribeConversationRequest),
        subscribe_tenant_bytes=_bytes_stream(
            store, _SUBSCRIBE_TENANT, store_pb2.SubscribeTenantRequest
        ),
        approvals=ApprovalStoreServiceStub(store),
        blobs=BlobServiceStub(store),
        download_blob_bytes=_bytes_stream(store, _DOWNLOAD_BLOB, blob_pb2.DownloadBlobRequest),
        catalog=CatalogServiceStub(store),
        keys=IdentityServiceStub(store),
        ledger=LedgerServiceStub(store),
        requests=RequestServiceStub(store),
        runtime=AgentRuntimeServiceStub(runtime),
        tools=ToolRunnerServiceStub(tool_runner),
        execute_bytes=_bytes_stream(tool_runner, _EXECUTE, runner_pb2.ExecuteRequest),
        read_file_bytes=_bytes_stream(tool_runner, _READ_FILE, runner_pb2.ReadFileRequest),
    )


def _bytes_stream(
    channel: grpc.aio.Channel, method: str, request: type[_Request]
) -> BytesStream[_Request]:
    return channel.unary_stream(method, request_serializer=request.SerializeToString)
