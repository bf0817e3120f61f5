"""Every change, asked for at once at two replicas of the gateway and once more later, under one id:
it is made once, and all are answered alike."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from agentmesh.gateway.v1 import agent_service_pb2 as agents
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1 import tool_service_pb2 as tools
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from agentmesh.tool_runner.v1.tool_runner_service_pb2 import EXECUTION_LANGUAGE_PYTHON
from agentmesh_gateway.public_api import PUBLIC_SERVICES
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from meshkit.policy import method_rules
from meshkit.testkit import raises_rich

from tests.support.differential.answers import differences
from tests.support.differential.cases import CASES
from tests.support.differential.over_grpc import call_over_grpc
from tests.support.differential.over_rest import call_over_rest
from tests.support.differential.world import ENVIRONMENT, KEY, TENANT, World
from tests.support.mesh import Mesh

CHANGES = [
    method
    for service in PUBLIC_SERVICES
    for method in service.methods
    if method_rules(method).changes and not method_rules(method).server_streaming
]
EXECUTE = next(
    method
    for service in PUBLIC_SERVICES
    for method in service.methods
    if method.name == "ExecuteCode"
)
# What each of them leaves behind, in all; turns of agents add to none of them.
_TRACES = {
    "conversations": "SELECT count(*) FROM conversations",
    "documents": "SELECT count(*) FROM documents",
    "keys": "SELECT count(*) FROM api_keys",
    "policy": "SELECT coalesce(max(version), 0) FROM tenant_policies",
    "messages": "SELECT count(*) FROM events WHERE kind = 'message' AND data LIKE '%go on%'",
    "steering": "SELECT count(*) FROM events WHERE kind LIKE '%paused' OR kind LIKE '%resumed'",
}


def short_name(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}.{method.name}"


@dataclass
class Replicas:
    """A mesh with two gateways, each called over the edge of its own."""

    world: World
    one: grpc.aio.Channel
    other: httpx.AsyncClient
    other_channel: grpc.aio.Channel

    @property
    def credentials(self) -> list[tuple[str, str]]:
        return [("authorization", self.world.bearer)]

    def recorded(self, method: MethodDescriptor) -> int:
        """How often the audit log says that `method` changed something, or was about to."""
        name = method_rules(method).full_name
        wanted = "SELECT count(*) FROM audit_records WHERE code IN ('OK', 'STARTED') AND method = ?"
        return self._ask({"records": (wanted, (name,))})["records"]

    def traces(self) -> dict[str, int]:
        """What was done so far."""
        return self._ask({name: (sql, ()) for name, sql in _TRACES.items()})

    def lose_the_answer(self, request_id: str, note: str) -> None:
        """As if a gateway had been killed after the deed and before its answer was kept."""
        database = sqlite3.connect(self._file, timeout=30)
        try:
            database.execute(
                "UPDATE requests SET response = x'', claim_id = '-', noted_by = 'gone', note = ?"
                " WHERE request_id LIKE ?",
                (note.encode(), f"%/{request_id}"),
            )
            database.commit()
        finally:
            database.close()

    @property
    def _file(self) -> Path:
        return self.world.mesh.folder / "data" / "store.sqlite3"

    def _ask(self, questions: dict[str, tuple[str, tuple[str, ...]]]) -> dict[str, int]:
        """Numbers from the store's database."""
        database = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=30)
        try:
            return {
                name: database.execute(sql, given).fetchone()[0]
                for name, (sql, given) in questions.items()
            }
        finally:
            database.close()


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(Mesh(tmp_path_factory.mktemp("idempotency"), ENVIRONMENT))

    async def prepare() -> None:
        await world.mesh.start()
        await world.mesh.start_another_gateway()
        await world.mesh.create_key(KEY, TENANT, "admin")
        await world.mesh.create_key("second", TENANT, "admin")
        await world.prepare()
        await world.mesh.heal()  # closes the channels of this loop

    asyncio.run(prepare())
    yield world
    world.mesh.stop()


@pytest_asyncio.fixture
async def replicas(shared_world: World) -> AsyncIterator[Replicas]:
    mesh = shared_world.mesh
    async with (
        grpc.aio.insecure_channel(mesh.address("gateway")) as one,
        grpc.aio.insecure_channel(mesh.address("gateway_1")) as other,
        httpx.AsyncClient(base_url=mesh.rest_url_of("gateway_1"), timeout=60) as http,
    ):
        yield Replicas(shared_world, one, http, other)
    await mesh.heal()


@pytest.mark.parametrize("method", CHANGES, ids=short_name)
async def test_a_change_is_made_once(replicas: Replicas, method: MethodDescriptor) -> None:
    made = await CASES[short_name(method)].make(replicas.world)
    requests = [made] if isinstance(made, Message) else list(made)
    plain = [_copy(request) for request in requests]
    _name(requests[0], request_id := replicas.world.name())
    _name(plain[0], "")  # REST has a header for it
    headers = dict(replicas.credentials) | {"idempotency-key": request_id}
    before, recorded = replicas.traces(), replicas.recorded(method)
    first, second = await asyncio.gather(
        call_over_grpc(replicas.one, method, requests, replicas.credentials),
        call_over_rest(replicas.other, method, plain, headers),
    )
    between = replicas.traces()
    assert replicas.recorded(method) > recorded
    third = await call_over_grpc(replicas.other_channel, method, requests, replicas.credentials)
    assert first.error is None
    for other in (second, third):
        assert not differences(first.plain(same_object=True), other.plain(same_object=True))
    assert replicas.traces() == between
    assert all(between[name] - before[name] <= 1 for name in before), (before, between)


async def test_code_runs_once_and_its_output_comes_again(replicas: Replicas) -> None:
    request = tools.ExecuteCodeRequest(
        language=EXECUTION_LANGUAGE_PYTHON,
        code="import time, uuid; print(uuid.uuid4(), flush=True); time.sleep(0.5); print(2)",
        request_id=replicas.world.name(),
    )
    answers = await asyncio.gather(
        call_over_grpc(replicas.one, EXECUTE, [request], replicas.credentials),
        call_over_grpc(replicas.other_channel, EXECUTE, [request], replicas.credentials),
    )
    again = await call_over_rest(replicas.other, EXECUTE, [request], dict(replicas.credentials))
    assert answers[0].error is None
    for other in (answers[1], again):
        assert not differences(answers[0].plain(same_object=True), other.plain(same_object=True))
    request.code = "print(1)"
    refused = await call_over_grpc(replicas.one, EXECUTE, [request], replicas.credentials)
    assert refused.error is not None
    assert "REQUEST_ID_REUSED" in str(refused.plain(same_object=True))


async def test_output_that_is_too_long_to_be_kept_is_not_made_again(replicas: Replicas) -> None:
    request = tools.ExecuteCodeRequest(
        language=EXECUTION_LANGUAGE_PYTHON,
        code="print('x' * 400_000)",
        request_id=replicas.world.name(),
    )
    first = await call_over_grpc(replicas.one, EXECUTE, [request], replicas.credentials)
    assert first.error is None
    again = await call_over_grpc(replicas.one, EXECUTE, [request], replicas.credentials)
    assert again.error is not None
    assert again.error.code == grpc.StatusCode.OUT_OF_RANGE.value[0]


async def test_files_are_known_again_where_no_answer_was_kept(replicas: Replicas) -> None:
    http, request_id = replicas.other, replicas.world.name()
    conversation = replicas.world.conversation_id
    path = f"/conversations/{conversation}/artifacts/{request_id}.txt"
    headers = dict(replicas.credentials) | {"idempotency-key": request_id}
    octets = headers | {"content-type": "application/octet-stream"}

    async def upload() -> httpx.Response:
        return await http.put(path, content=b"x", params={"must_not_exist": "true"}, headers=octets)

    first = await upload()
    assert first.status_code == 200, first.text
    replicas.lose_the_answer(request_id, "begun")
    again = await upload()
    assert (again.status_code, again.json()) == (200, first.json())

    note = f"etag:{first.json()['artifact']['etag']}"
    assert (await http.delete(path, headers=headers)).json() == {"removed": True}
    replicas.lose_the_answer(request_id, note)
    assert (await http.delete(path, headers=headers)).json() == {"removed": True}
    replicas.lose_the_answer(request_id, note)
    other = octets | {"idempotency-key": replicas.world.name()}
    assert (await http.put(path, content=b"y", headers=other)).status_code == 200
    refused = await http.delete(path, headers=headers)
    assert (refused.status_code, "OUTCOME_UNKNOWN" in refused.text) == (409, True)
    assert (await http.get(path, headers=dict(replicas.credentials))).content == b"y"


async def test_a_restored_file_is_known_again_where_no_answer_was_kept(replicas: Replicas) -> None:
    http, request_id = replicas.other, replicas.world.name()
    conversation = f"/conversations/{replicas.world.conversation_id}"
    path, headers = f"{conversation}/artifacts/{request_id}.txt", dict(replicas.credentials)
    octets = headers | {"content-type": "application/octet-stream"}
    for content in (b"one", b"two"):
        assert (await http.put(path, content=content, headers=octets)).status_code == 200
    versions = f"{conversation}/artifact-versions"
    named = {"path": f"{request_id}.txt"}
    (version,) = (await http.get(versions, params=named, headers=headers)).json()["versions"]

    async def restore() -> httpx.Response:
        repeated = headers | {"idempotency-key": request_id}
        return await http.post(f"{versions}/{version['id']}/restore", headers=repeated)

    first = await restore()
    assert first.status_code == 200, first.text
    note = f"{version['id']}:{hashlib.sha256(b'two').hexdigest()}"
    replicas.lose_the_answer(request_id, note)
    assert (await restore()).json() == first.json()
    kept = (await http.get(versions, params=named, headers=headers)).json()["versions"]
    assert len(kept) == 2, "what was restored once is overwritten by nothing"
    replicas.lose_the_answer(request_id, note)
    assert (await http.put(path, content=b"three", headers=octets)).status_code == 200
    refused = await restore()
    assert (refused.status_code, "OUTCOME_UNKNOWN" in refused.text) == (409, True)
    assert (await http.get(path, headers=headers)).content == b"three"


async def test_an_id_means_something_to_one_caller_and_one_method(replicas: Replicas) -> None:
    """And a retry asks for the same, whatever became of the agents meanwhile."""
    agent = await replicas.world.agent()
    request = conversations.StartConversationRequest(
        task="hello", agents=[agent], max_rounds=1, request_id=replicas.world.name()
    )
    stub: Any = ConversationServiceStub(replicas.one)
    first = await stub.StartConversation(request, metadata=replicas.credentials)
    someone = [("authorization", f"Bearer {replicas.world.mesh.keys['second']}")]
    other = await stub.StartConversation(request, metadata=someone)
    assert other.conversation_id != first.conversation_id
    fork = conversations.ForkConversationRequest(
        conversation_id=first.conversation_id, request_id=request.request_id
    )
    forked = await stub.ForkConversation(fork, metadata=replicas.credentials)
    assert forked.conversation.conversation_id != first.conversation_id
    changed = agents.UpdateAgentRequest(
        agent_id=agent, config=agents.AgentConfig(role="else"), request_id=request.request_id
    )
    await AgentServiceStub(replicas.one).UpdateAgent(changed, metadata=replicas.credentials)
    copied = agents.CloneAgentRequest(
        agent_id=agent, name=replicas.world.name(), request_id=request.request_id
    )
    await AgentServiceStub(replicas.one).CloneAgent(copied, metadata=replicas.credentials)
    assert await stub.StartConversation(request, metadata=replicas.credentials) == first
    request.task = "something else"
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await stub.StartConversation(request, metadata=replicas.credentials)


async def test_two_different_ids_are_refused(replicas: Replicas) -> None:
    body = {"task": "hello", "agents": ["reviewer"], "request_id": "one"}
    headers = dict(replicas.credentials) | {"idempotency-key": "another"}
    refused = await replicas.other.post("/conversations/start", json=body, headers=headers)
    assert refused.status_code == 400
    assert "request_id" in refused.text


def _copy(message: Message) -> Message:
    return type(message).FromString(message.SerializeToString())


def _name(message: Any, request_id: str) -> None:
    message.request_id = request_id
