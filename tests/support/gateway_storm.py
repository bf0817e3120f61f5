"""A storm over two replicas of the gateway: people start conversations, write, fork, change agents
and make keys, over both edges, while the replicas are killed. What must be true afterwards is
checked against the store and its audit log."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import httpx
from agentmesh.catalog.v1.agent_pb2 import AgentDefinition
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1.stream_pb2 import SUBSCRIBE_UNTIL_HEAD
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceStub
from agentmesh.gateway.v1 import admin_service_pb2 as admin
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from meshkit.channels import MeshChannels, call_metadata
from meshkit.identity import SYSTEM
from meshkit.settings import ServiceSettings
from meshkit.testkit import MeshProcess
from pydantic import SecretStr

SECRET = "a-secret-for-a-storm-of-gateways-01"
CALL_SECONDS = 5.0
SETTLE_SECONDS = 60.0
AGENT = "writer"
TENANT = "default"
_TASK = "hello"


@dataclass
class Tally:
    """What was asked for and acknowledged, by request id."""

    started: dict[str, str] = field(default_factory=dict)
    """To the conversation."""
    sent: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    """To the conversation, the message and its sequence."""
    forked: dict[str, str] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    retries: int = 0
    kills: int = 0
    readings: int = 0

    @property
    def acknowledged(self) -> set[str]:
        """Every request that was answered."""
        return {*self.started, *self.sent, *self.forked, *self.keys, *self.policies}

    def __str__(self) -> str:
        return (
            f"{len(self.started)} conversations, {len(self.sent)} messages, {len(self.forked)}"
            f" forks, {len(self.keys)} keys, {len(self.policies)} policies; {self.retries} retries,"
            f" {self.readings} readings, {self.kills} kills"
        )


class GatewayStorm:
    """A store on Postgres and two gateways as processes, with everybody who uses them."""

    def __init__(self, folder: Path, postgres_url: str, seed: int) -> None:
        self.tally = Tally()
        self._chance = random.Random(seed)
        self._folder = folder
        self._postgres_url = postgres_url
        self._gateways: list[MeshProcess] = []
        self._stack = AsyncExitStack()
        self._over = False

    async def __aenter__(self) -> GatewayStorm:
        self._store = await self._stack.enter_async_context(
            self._process(
                "conversation_store",
                "store",
                POSTGRES_URL=self._postgres_url,
                API_KEY_SECRET="a-pepper-for-a-storm-of-gateways-01",
                AGENTMESH_AUDIT_SEAL_SECONDS="0.2",
            )
        )
        await self._publish()
        for number in range(2):
            gateway = self._process(
                "gateway",
                f"gateway_{number}",
                APP_PORT="0",
                AGENTMESH_STORE_ADDRESS=self._store.grpc_address,
                AGENTMESH_ALLOW_ANONYMOUS="true",
            )
            self._gateways.append(await self._stack.enter_async_context(gateway))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    def _process(self, service: str, name: str, **environment: str) -> MeshProcess:
        told = {"AGENTMESH_INTERNAL_SECRET": SECRET, "LOG_LEVEL": "WARNING", **environment}
        command = [sys.executable, "-m", f"agentmesh_{service}"]
        return MeshProcess(command, self._folder / name, told)

    async def _publish(self) -> None:
        settings = ServiceSettings(
            data_dir=self._folder / "test", internal_secret=SecretStr(SECRET)
        )
        channels = MeshChannels("agent_runtime", settings)
        document = catalog.Document(
            kind=catalog.DOCUMENT_KIND_AGENT, name=AGENT, agent=AgentDefinition(id=AGENT)
        )
        stub: Any = CatalogServiceStub(
            channels.channel(self._store.grpc_address, "conversation_store")
        )
        await stub.PublishDocuments(
            catalog.PublishDocumentsRequest(documents=[document]), metadata=call_metadata(SYSTEM)
        )
        await channels.close()

    # --- the storm ---------------------------------------------------------------------------

    async def blow(self, seconds: float, *, writers: int, readers: int) -> None:
        """Returns when all that was asked for is acknowledged."""
        first = [await self._start() for _ in range(readers)]
        self._watched = {name: Reader(self, name) for name in first}
        async with asyncio.timeout(seconds + SETTLE_SECONDS), asyncio.TaskGroup() as people:
            for reader in self._watched.values():
                people.create_task(reader.read())
            writing = [people.create_task(self._write(first)) for _ in range(writers)]
            killing = [people.create_task(self._kill(gateway)) for gateway in self._gateways]
            await asyncio.sleep(seconds)
            self._over = True
            await asyncio.gather(*killing, *writing)
            for reader in self._watched.values():
                reader.wanted = await self._head(reader.conversation_id)

    async def _kill(self, gateway: MeshProcess) -> None:
        while not self._over:
            await asyncio.sleep(self._chance.uniform(0.3, 1.5))
            await gateway.sigkill()
            self.tally.kills += 1
            await gateway.restart()

    async def _write(self, shared: list[str]) -> None:
        deeds: list[Callable[[], Awaitable[object]]] = [
            lambda: self._send(self._chance.choice(shared)),
            lambda: self._send(self._chance.choice(shared)),
            lambda: self._send_over_rest(self._chance.choice(shared)),
            self._start,
            lambda: self._fork(self._chance.choice(shared)),
            self._make_key,
            self._put_policy,
        ]
        while not self._over:
            await self._chance.choice(deeds)()

    async def insist(self, work: Callable[[grpc.aio.Channel, str], Awaitable[Any]]) -> Any:
        """Repeats a call at either replica, whichever, until it is answered."""
        while True:
            gateway = self._chance.choice(self._gateways)
            try:
                async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
                    return await work(channel, gateway.http_address)
            except grpc.aio.AioRpcError as error:
                passing = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                if error.code() not in passing:
                    raise
            except (httpx.TransportError, ConnectionError):
                pass
            self.tally.retries += 1
            await asyncio.sleep(0.02)

    async def _start(self) -> str:
        request = conversations.StartConversationRequest(
            task=_TASK, agents=[AGENT], request_id=_new()
        )
        answer = await self.insist(
            lambda channel, _: ConversationServiceStub(channel).StartConversation(
                request, timeout=CALL_SECONDS
            )
        )
        self.tally.started[request.request_id] = answer.conversation_id
        return str(answer.conversation_id)

    async def _send(self, conversation_id: str) -> None:
        request_id = _new()
        request = conversations.SendMessageRequest(
            conversation_id=conversation_id, content=request_id, request_id=request_id
        )
        answer = await self.insist(
            lambda channel, _: ConversationServiceStub(channel).SendMessage(
                request, timeout=CALL_SECONDS
            )
        )
        self.tally.sent[request_id] = (conversation_id, answer.message_id, answer.sequence)

    async def _send_over_rest(self, conversation_id: str) -> None:
        request_id = _new()

        async def post(_: grpc.aio.Channel, url: str) -> Any:
            async with httpx.AsyncClient(base_url=url, timeout=CALL_SECONDS) as http:
                response = await http.post(
                    f"/conversations/{conversation_id}/message",
                    json={"content": request_id},
                    headers={"idempotency-key": request_id},
                )
            if response.status_code in (503, 504):
                raise ConnectionError
            assert response.status_code == 200, response.text
            return response.json()

        answer = await self.insist(post)
        place = (conversation_id, answer["message_id"], int(answer["sequence"]))
        self.tally.sent[request_id] = place

    async def _fork(self, conversation_id: str) -> None:
        request = conversations.ForkConversationRequest(
            conversation_id=conversation_id, request_id=_new()
        )
        answer = await self.insist(
            lambda channel, _: ConversationServiceStub(channel).ForkConversation(
                request, timeout=CALL_SECONDS
            )
        )
        self.tally.forked[request.request_id] = answer.conversation.conversation_id

    async def _make_key(self) -> None:
        request = admin.CreateKeyRequest(role=options_pb2.ROLE_VIEWER, request_id=_new())
        answer = await self.insist(
            lambda channel, _: AdminServiceStub(channel).CreateKey(request, timeout=CALL_SECONDS)
        )
        self.tally.keys[request.request_id] = (answer.key.key_id, answer.secret)

    async def _put_policy(self) -> None:
        request = admin.PutTenantPolicyRequest(request_id=_new())
        request.policy.retention_events = self._chance.randrange(10**6, 10**7)
        answer = await self.insist(
            lambda channel, _: AdminServiceStub(channel).PutTenantPolicy(
                request, timeout=CALL_SECONDS
            )
        )
        self.tally.policies[request.request_id] = answer.policy.etag

    async def _head(self, conversation_id: str) -> int:
        request = conversations.GetConversationRequest(conversation_id=conversation_id)
        found = await self.insist(
            lambda channel, _: ConversationServiceStub(channel).GetConversation(
                request, timeout=CALL_SECONDS
            )
        )
        return int(found.head_sequence)

    # --- what must be true ---------------------------------------------------------------------

    async def check(self) -> None:
        """Each change was made once and is on record; each reader heard of each event once."""
        assert self.tally.kills >= 3, self.tally
        assert self.tally.retries > 0, self.tally
        for reader in self._watched.values():
            assert reader.sequences == list(range(1, reader.wanted + 1)), self.tally
        connection = await asyncpg.connect(self._postgres_url)
        try:
            await connection.execute("SET agentmesh.tenants = '{*}'")
            await self._check_effects(connection)
            await self._check_records(connection)
        finally:
            await connection.close()
        await self._check_chain()

    async def _check_effects(self, connection: Any) -> None:
        tally = self.tally
        made = {*tally.started.values(), *tally.forked.values()}
        assert len(made) == len(tally.started) + len(tally.forked), tally
        rows = await connection.fetch("SELECT conversation_id FROM conversations")
        assert {row["conversation_id"] for row in rows} == made, tally
        keys = await connection.fetch("SELECT key_id FROM api_keys")
        assert {row["key_id"] for row in keys} == {key for key, _ in tally.keys.values()}, tally
        assert len({secret for _, secret in tally.keys.values()}) == len(tally.keys), tally
        version = await connection.fetchval("SELECT max(version) FROM tenant_policies") or 0
        etags = sorted(tally.policies.values(), key=lambda etag: int(etag[1:]))
        assert etags == [f"v{number}" for number in range(1, version + 1)], tally
        by_conversation: dict[str, list[str]] = defaultdict(list)
        for request_id, (conversation_id, _, _) in tally.sent.items():
            by_conversation[conversation_id].append(request_id)
        for conversation_id, reader in self._watched.items():
            said = Counter(reader.said)
            assert said == Counter(by_conversation[conversation_id]), tally

    async def _check_records(self, connection: Any) -> None:
        rows = await connection.fetch(
            "SELECT request_id, principal, tenant FROM audit_records WHERE code = 'OK'"
        )
        recorded = {row["request_id"] for row in rows}
        assert recorded == self.tally.acknowledged, self.tally
        assert {(row["principal"], row["tenant"]) for row in rows} == {("anonymous", TENANT)}

    async def _check_chain(self) -> None:
        command = [*self._store.command, "audit", "verify"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env=self._store.environment
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        assert f"{TENANT}: " in output.decode()


class Reader:
    """Follows one conversation, over any number of gateways."""

    def __init__(self, storm: GatewayStorm, conversation_id: str) -> None:
        self._storm = storm
        self.conversation_id = conversation_id
        self.sequences: list[int] = []
        self.said: list[str] = []
        self.wanted = 0
        """Read until there; 0: not known yet."""

    async def read(self) -> None:
        """Returns when everything has come."""
        until = time.monotonic() + SETTLE_SECONDS
        while not self.wanted or len(self.sequences) < self.wanted:
            assert time.monotonic() < until, self._storm.tally
            await self._storm.insist(self._some)
            self._storm.tally.readings += 1

    async def _some(self, channel: grpc.aio.Channel, _: str) -> None:
        request = conversations.SubscribeConversationRequest(
            conversation_id=self.conversation_id,
            after_sequence=len(self.sequences),
        )
        if self.wanted:
            request.until = SUBSCRIBE_UNTIL_HEAD
        call = ConversationServiceStub(channel).SubscribeConversation(request)
        try:
            async for response in call:
                for event in response.item.events.events:
                    self._take(event)
                if self.wanted and len(self.sequences) >= self.wanted:
                    return
        finally:
            call.cancel()

    def _take(self, event: Any) -> None:
        self.sequences.append(event.sequence)
        if event.HasField("message") and event.message.content != _TASK:
            self.said.append(event.message.content)


def _new() -> str:
    return f"r-{uuid.uuid4().hex}"
