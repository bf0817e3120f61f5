"""The state that the calls of the differential test are about."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.gateway.v1 import agent_service_pb2 as agents
from agentmesh.gateway.v1 import approval_service_pb2 as approvals
from agentmesh.gateway.v1 import artifact_service_pb2 as artifacts
from agentmesh.gateway.v1 import blob_service_pb2 as blobs
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1 import workflow_service_pb2 as workflows
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from agentmesh.gateway.v1.approval_service_pb2_grpc import ApprovalServiceStub
from agentmesh.gateway.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from agentmesh.gateway.v1.blob_service_pb2_grpc import BlobServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from agentmesh.gateway.v1.workflow_service_pb2_grpc import WorkflowServiceStub

from tests.support.conversations import follow
from tests.support.mesh import Mesh

# Has an agent that asks a person first of all.
EXAMPLE = Path(__file__).parents[3] / "examples" / "approvals"
ENVIRONMENT = {
    "agent_runtime": {
        "AGENTMESH_AGENTS_FILE": str(EXAMPLE / "agents.yaml"),
        "AGENTMESH_SCRIPT_FILE": str(EXAMPLE / "script.yaml"),
    },
    # Every method is tried without good credentials, faster than people would.
    "gateway": {
        "AGENTMESH_REFUSED_CREDENTIALS_PER_MINUTE": "0",
        "AGENTMESH_ANONYMOUS_REQUESTS_PER_SECOND": "0",
    },
}
KEY = "admin"
TENANT = "acme"
FILE = "notes/today.txt"


@dataclass
class World:
    """A mesh with something of everything in it."""

    mesh: Mesh
    conversation_id: str = ""
    """One that is over and has a file."""
    agent_id: str = ""
    digest: str = ""
    """Of a blob."""
    _waiting: tuple[str, str] | None = None
    _execution: str = ""
    _version: tuple[str, str] | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """With the administrator's key."""
        return self.mesh.channel(KEY)

    @property
    def bearer(self) -> str:
        """The administrator's credentials, as a header has them."""
        return f"Bearer {self.mesh.keys[KEY]}"

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        # The channel sends credentials with calls of one request only.
        return (("authorization", self.bearer),)

    def name(self) -> str:
        """A new name, which comparisons treat like an id."""
        return f"made_{uuid.uuid4().hex[:8]}"

    async def prepare(self) -> None:
        """Puts it there."""
        self.conversation_id = await self.finished()
        await self.with_file(self.conversation_id)
        self.agent_id = await self.agent()
        chunk = blobs.UploadBlobRequest(chunk=b"bytes", size_bytes=5)
        sent = await BlobServiceStub(self.channel).UploadBlob(
            iter([chunk]), metadata=self._metadata
        )
        self.digest = sent.digest

    async def finished(self) -> str:
        """A new conversation that is over."""
        started = await self.mesh.start_conversation("hello", ("reviewer",), key=KEY, max_rounds=1)
        await follow(self.channel, started.conversation_id)
        return started.conversation_id

    async def with_file(self, conversation_id: str, content: bytes = b"one") -> str:
        """Gives a conversation a file; its etag."""
        request = artifacts.UploadArtifactRequest(
            conversation_id=conversation_id, path=FILE, size_bytes=len(content), chunk=content
        )
        sent = await ArtifactServiceStub(self.channel).UploadArtifact(
            iter([request]), metadata=self._metadata
        )
        etag: str = sent.artifact.etag
        return etag

    async def with_version(self) -> tuple[str, str]:
        """A new conversation whose file was overwritten; its id and that of the older version."""
        conversation_id = await self.finished()
        await self.with_file(conversation_id)
        await self.with_file(conversation_id, b"two")
        request = artifacts.ListArtifactVersionsRequest(conversation_id=conversation_id)
        found = await ArtifactServiceStub(self.channel).ListArtifactVersions(request)
        return conversation_id, found.versions[0].id

    async def agent(self, **config: Any) -> str:
        """A new agent."""
        name = self.name()
        request = agents.RegisterAgentRequest(
            name=name, config=agents.AgentConfig(role="r", system_message="s", **config)
        )
        await AgentServiceStub(self.channel).RegisterAgent(request)
        return name

    async def waiting(self) -> tuple[str, str]:
        """A new conversation that waits for a person; its id and that of the question."""
        started = await self.mesh.start_conversation(
            "write a note", ("tidier",), key=KEY, human_input=True, max_rounds=9
        )
        request = approvals.ListApprovalsRequest(conversation_id=started.conversation_id)
        stub = ApprovalServiceStub(self.channel)
        async with asyncio.timeout(60):
            while not (found := (await stub.ListApprovals(request)).approvals):
                await asyncio.sleep(0.02)
        return started.conversation_id, found[0].approval_id

    async def shared_waiting(self) -> tuple[str, str]:
        """As `waiting`, always the same, which nobody answers."""
        self._waiting = self._waiting or await self.waiting()
        return self._waiting

    async def shared_version(self) -> tuple[str, str]:
        """As `with_version`, always the same."""
        self._version = self._version or await self.with_version()
        return self._version

    async def shared_execution(self) -> str:
        """The id of an execution of a workflow that is over, always the same."""
        if not self._execution:
            request = workflows.ExecuteWorkflowRequest(workflow_id="software_development")
            request.parameters.update({"task": "hello"})
            made = await WorkflowServiceStub(self.channel).ExecuteWorkflow(request)
            await follow(self.channel, made.conversation_id)
            self._execution = made.execution_id
        return self._execution

    async def paused(self) -> str:
        """A new conversation that is paused."""
        conversation_id, _ = await self.waiting()
        stub = ConversationServiceStub(self.channel)
        await stub.PauseConversation(
            conversations.PauseConversationRequest(conversation_id=conversation_id)
        )
        return conversation_id

    async def etag(self) -> str:
        """The etag of the conversation that is over."""
        request = conversations.GetConversationRequest(conversation_id=self.conversation_id)
        found = await ConversationServiceStub(self.channel).GetConversation(request)
        assert found.status == conversation_pb2.CONVERSATION_STATUS_COMPLETED
        return found.etag

    async def exported(self) -> bytes:
        """An export of the conversation that is over."""
        request = conversations.ExportConversationRequest(conversation_id=self.conversation_id)
        call = ConversationServiceStub(self.channel).ExportConversation(request)
        return b"".join([response.chunk async for response in call])
