"""A store and a gateway as processes, without runtimes: what is in a log is what is put there."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from agentmesh.catalog.v1 import agent_pb2, team_pb2
from agentmesh.common.v1.options_pb2 import ROLE_ADMIN
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
    ConversationStoreServiceStub,
)
from agentmesh.gateway.v1.admin_service_pb2 import CreateKeyRequest
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from meshkit.channels import MeshChannels, call_metadata
from meshkit.identity import Principal, principal_scope
from meshkit.settings import ServiceSettings
from meshkit.testkit import MeshProcess
from pydantic import SecretStr

_WRITER = Principal(subject="bench", tenant="default", role=3)
_SEND_METHOD = "/agentmesh.conversation_store.v1.ConversationStoreService/SendMessage"
SINGLE_WRITER = team_pb2.TeamDefinition(
    id="bench",
    kind=team_pb2.TEAM_KIND_SINGLE,
    participants=[team_pb2.Participant(agent=agent_pb2.AgentDefinition(id="writer"))],
)


@dataclass(frozen=True)
class Databases:
    """What the store keeps its data in: SQLite and no Redis where nothing is named."""

    postgres_url: str = ""
    redis_url: str = ""

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options that `of` reads."""
        parser.add_argument("--postgres-url", default=os.environ.get("POSTGRES_URL", ""))
        parser.add_argument("--redis-url", default=os.environ.get("REDIS_URL", ""))

    @classmethod
    def of(cls, options: argparse.Namespace) -> Databases:
        """What the command line says."""
        return cls(options.postgres_url, options.redis_url)

    @property
    def environment(self) -> dict[str, str]:
        """The store's settings."""
        named = {"POSTGRES_URL": self.postgres_url, "REDIS_URL": self.redis_url}
        return {name: url for name, url in named.items() if url}

    @property
    def names(self) -> str:
        """For reports."""
        engine = "Postgres" if self.postgres_url else "SQLite"
        return f"{engine} and Redis" if self.redis_url else engine


_LIMITS = {
    "AGENTMESH_REQUESTS_PER_SECOND": "1000000",
    "AGENTMESH_REQUESTS_PER_SECOND_PER_PRINCIPAL": "1000000",
    "AGENTMESH_MAX_OPEN_STREAMS": "100000",
    "AGENTMESH_MAX_OPEN_STREAMS_PER_PRINCIPAL": "100000",
}
"""Limits that are counted but not met: what is measured is not how the gateway refuses."""


@dataclass(frozen=True)
class StoreAndGateway:
    """Both processes, and a writer that speaks to the store as a worker's service does."""

    store: MeshProcess
    gateway: MeshProcess
    channel: grpc.aio.Channel
    """To the store, with the credentials of a service."""
    writer: Any
    """A stub on it that acts for a person."""
    send_bytes: Any
    """SendMessage without a stub."""
    secret: str
    """The mesh's own, for what stands beside the gateway."""

    async def create_key(self) -> str:
        """The secret of an administrator's key; from then on nobody calls the gateway without."""
        async with grpc.aio.insecure_channel(self.gateway.grpc_address) as channel:
            admin: Any = AdminServiceStub(channel)
            wanted = CreateKeyRequest(name="bench", role=ROLE_ADMIN)
            secret: str = (await admin.CreateKey(wanted)).secret
        return secret

    async def start_conversation(self) -> str:
        """The id of a new conversation that nobody works on."""
        request = store_pb2.StartConversationRequest(
            task="bench", definition=SINGLE_WRITER, max_rounds=10
        )
        started = await self.writer.StartConversation(request)
        conversation_id: str = started.conversation.conversation_id
        return conversation_id

    async def send(self, conversation_id: str, content: str) -> None:
        """Commits one message event. As light as the subscribers are, because it shares their
        machine: no stub, no span, and the response stays bytes."""
        request = store_pb2.SendMessageRequest(conversation_id=conversation_id, content=content)
        await self.send_bytes(request.SerializeToString(), metadata=call_metadata())


def resident_bytes(process: MeshProcess) -> int:
    """Memory that a process holds now."""
    size: int = psutil.Process(process.pid).memory_info().rss
    return size


@asynccontextmanager
async def store_and_gateway(
    databases: Databases,
    store_settings: Mapping[str, str] | None = None,
    store_module: str = "agentmesh_conversation_store",
) -> AsyncIterator[StoreAndGateway]:
    """Both on free ports over an empty data directory; the calling task acts as the writer."""
    secret = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as name:
        folder = Path(name)
        pepper = secrets.token_hex(32)
        common = {
            "AGENTMESH_INTERNAL_SECRET": secret,
            "API_KEY_SECRET": pepper,
            "LOG_LEVEL": "WARNING",
        }
        store = _process(
            store_module,
            folder,
            common | databases.environment | dict(store_settings or {}),
        )
        async with store:
            ports = {"APP_PORT": "0", "AGENTMESH_STORE_ADDRESS": store.grpc_address}
            async with _process("agentmesh_gateway", folder, common | ports | _LIMITS) as gateway:
                settings = ServiceSettings(data_dir=folder, internal_secret=SecretStr(secret))
                channels = MeshChannels("agent_runtime", settings)
                channel = channels.channel(store.grpc_address, "conversation_store")
                with principal_scope(_WRITER):
                    writer = ConversationStoreServiceStub(channel)
                    async with grpc.aio.insecure_channel(store.grpc_address) as bare:
                        send: Any = bare.unary_unary(_SEND_METHOD)
                        yield StoreAndGateway(store, gateway, channel, writer, send, secret)
                await channels.close()


def _process(module: str, folder: Path, environment: dict[str, str]) -> MeshProcess:
    return MeshProcess([sys.executable, "-m", module], folder / module, environment)
