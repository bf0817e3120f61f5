"""G4, G5: a tool_runner dies with the workspace of a conversation, and another one goes on with the
files as the store has them: those of every recorded call, and of nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from agentmesh.common.v1.options_pb2 import ROLE_OPERATOR
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2
from agentmesh.conversation_store.v1.conversation_store_service_pb2 import (
    DELIVERY_STRATEGY_INTERRUPT,
)
from agentmesh.conversation_store.v1.workspace_service_pb2 import GetWorkspaceRequest
from agentmesh.conversation_store.v1.workspace_service_pb2_grpc import WorkspaceServiceStub
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from agentmesh.tool_runner.v1.tool_runner_service_pb2 import ListSessionsRequest
from agentmesh.tool_runner.v1.tool_runner_service_pb2_grpc import ToolRunnerServiceStub
from meshkit.channels import MeshChannels
from meshkit.context import Principal, principal_scope
from meshkit.settings import ServiceSettings
from meshkit.testkit import free_port
from pydantic import SecretStr

from tests.support.conversations import assert_dense, follow, run_end, tool_results
from tests.support.mesh import SECRET, Mesh
from tests.support.model_server import ModelServer, Reply
from tests.support.prompts import Prompt, call_tool
from tests.support.wire_tap import Side, WireTap

AGENTS = ("project_manager", "developer")
# Each call adds a line to a file and makes one of its own, and shows what there is.
WORK = """
import os, pathlib
log = pathlib.Path("log")
with log.open("a") as file:
    file.write("{number}\\n")
pathlib.Path("made_by_{number}").mkdir()
pathlib.Path("made_by_{number}/large").write_bytes(os.urandom(2 << 20))
print("lines:", log.read_text().split(), sorted(p.name for p in pathlib.Path(".").glob("made*")))
"""


def worker(body: dict[str, Any], number: int) -> Reply:
    """Each turn: one program, then a word."""
    prompt = Prompt(body)
    if "code_executor" in prompt.tools and not prompt.tool_results:
        code = WORK.replace("{number}", str(number))
        return call_tool("code_executor", language="python", code=code)
    return Reply(f"Seen {number}.")


class Scene:
    """A mesh with two tool_runners, its model and what stands before its store."""

    def __init__(self, mesh: Mesh, model: ModelServer, tap: WireTap) -> None:
        self.mesh = mesh
        self.model = model
        self.tap = tap

    @property
    def stub(self) -> Any:
        """The public service."""
        return ConversationServiceStub(self.mesh.channel())

    async def start(self, rounds: int) -> str:
        """A conversation; its id."""
        started = await self.mesh.start_conversation("work", AGENTS, max_rounds=rounds)
        return started.conversation_id

    async def follow(self, name: str) -> list[event_pb2.Event]:
        """All events until its run has ended."""
        return await follow(self.mesh.channel(), name)

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[MeshChannels]:
        """Channels to the services of the mesh, for a viewer."""
        settings = ServiceSettings(data_dir=self.mesh.folder, internal_secret=SecretStr(SECRET))
        channels = MeshChannels("gateway", settings)
        with principal_scope(Principal("tester", "default", ROLE_OPERATOR)):
            yield channels
        await channels.close()

    async def sessions(self, name: str) -> int:
        """How many runners have the workspace of a conversation open."""
        found: list[str] = []
        async with self.inside() as channels:
            for each in self.mesh.tool_runners:
                channel = channels.channel(self.mesh.address(each), "tool_runner")
                stub: Any = ToolRunnerServiceStub(channel)
                answer = await stub.ListSessions(ListSessionsRequest())
                found += [session.conversation_id for session in answer.sessions]
        return found.count(name)

    async def runner_of(self, name: str) -> str:
        """The runner that has the workspace of a conversation open, as the store knows it."""
        async with self.inside() as channels:
            address = self.mesh.address("conversation_store")
            stub: Any = WorkspaceServiceStub(channels.channel(address, "conversation_store"))
            answer = await stub.GetWorkspace(GetWorkspaceRequest(conversation_id=name))
        names = {self.mesh.address(each): each for each in self.mesh.tool_runners}
        return names.get(answer.runner_address, "")


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mesh, int, int]]:
    """A mesh whose ports outlive the event loops of single tests."""
    model_port, tap_port = free_port(), free_port()
    model = {
        "OPENAI_API_KEY": "sk-for-tests",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/v1",
    }
    mesh = Mesh(
        tmp_path_factory.mktemp("runners"),
        {"agent_runtime": model},
        store_address=f"127.0.0.1:{tap_port}",
        tool_runners=2,
    )

    async def start() -> None:
        await mesh.start_store()
        async with WireTap(mesh.address("conversation_store"), tap_port):
            await mesh.start_workers()

    asyncio.run(start())
    yield mesh, model_port, tap_port
    mesh.stop()


@pytest_asyncio.fixture
async def scene(ports: tuple[Mesh, int, int]) -> AsyncIterator[Scene]:
    mesh, model_port, tap_port = ports
    async with (
        ModelServer(port=model_port) as model,
        WireTap(mesh.address("conversation_store"), tap_port) as tap,
    ):
        await mesh.heal()
        model.reply_with(worker)
        yield Scene(mesh, model, tap)
        await mesh.heal()


# The developer's second turn, which is the fourth: the record of its program, and its commit.
KILLS = [
    ("RecordStep", 7, Side.AFTER, False),
    ("CommitTurn", 4, Side.BEFORE, False),
    ("CommitTurn", 4, Side.AFTER, False),
    ("RecordStep", 7, Side.BEFORE, True),
]


@pytest.mark.parametrize(("method", "nth", "side", "unknown"), KILLS)
async def test_another_runner_goes_on_with_exactly_the_recorded_files(
    scene: Scene, method: str, nth: int, side: Side, unknown: bool
) -> None:
    names: list[str] = []
    killed: list[str] = []

    async def strike() -> None:
        # It does not come back while the conversation goes on.
        killed.append(await scene.runner_of(names[0]))
        await scene.mesh.kill(killed[0])

    scene.tap.forget()
    point = scene.tap.at(side, method, nth, strike)
    names.append(await scene.start(6))
    events = await scene.follow(names[0])
    async with asyncio.timeout(20):
        await point.done.wait()
    assert killed
    assert_dense(events)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED, run_end(events)
    results = tool_results(events)
    assert len(results) == 3
    lost = [r for r in results if r.outcome == message_pb2.TOOL_OUTCOME_UNKNOWN]
    assert len(lost) == unknown
    done = [r.output.partition("lines: ")[2] for r in results if r not in lost]
    numbers: list[str] = []
    for shown in done:
        numbers.append(shown.split("'")[-2].removeprefix("made_by_"))
        lines = [f"'{number}'" for number in numbers]
        assert shown.startswith(f"[{', '.join(lines)}]"), done
        made = shown.partition("] ")[2]
        assert made.count("made_by_") == len(numbers), done


async def test_a_conversation_that_waits_has_nothing_open_and_goes_on_as_it_was(
    scene: Scene,
) -> None:
    asked = asyncio.Event()

    def slow(body: dict[str, Any], number: int) -> Reply:
        if number == 5:
            asked.set()
            scene.model.chunk_delay = 1
        return worker(body, number)

    scene.model.reply_with(slow)
    name = await scene.start(6)
    async with asyncio.timeout(60):
        await asked.wait()
        assert await scene.sessions(name) >= 1
        await scene.stub.PauseConversation(
            conversations.PauseConversationRequest(conversation_id=name)
        )
        scene.model.chunk_delay = 0
        while await scene.runner_of(name):
            await asyncio.sleep(0.05)
        while await scene.sessions(name):
            await asyncio.sleep(0.05)
    await scene.stub.ResumeConversation(
        conversations.ResumeConversationRequest(conversation_id=name)
    )
    results = tool_results(await scene.follow(name))
    assert results[-1].output.partition("] ")[2].count("made_by_") == 3


async def test_an_interrupted_turn_takes_its_files_back_and_the_model_reads_of_it(
    scene: Scene,
) -> None:
    held = asyncio.Event()

    def hesitant(body: dict[str, Any], number: int) -> Reply:
        prompt = Prompt(body)
        if prompt.tool_results and not held.is_set():
            held.set()
            scene.model.chunk_delay = 60
            return Reply("This word never counts.")
        return worker(body, number)

    scene.model.reply_with(hesitant)
    name = await scene.start(2)
    async with asyncio.timeout(60):
        await held.wait()
    scene.model.chunk_delay = 0
    await scene.stub.SendMessage(
        conversations.SendMessageRequest(
            conversation_id=name,
            content="Otherwise, please.",
            strategy=DELIVERY_STRATEGY_INTERRUPT,
        )
    )
    events = await scene.follow(name)
    (restored,) = [e for e in events if e.WhichOneof("kind") == "workspace_restored"]
    results = tool_results(events)
    assert len(results[-1].output.partition("lines: ")[2].partition("]")[0].split(",")) == 1
    told = [str(request["messages"]) for request in scene.model.requests]
    assert any(restored.workspace_restored.text[:40] in each for each in told)


async def test_a_fork_has_the_files_of_its_point(scene: Scene) -> None:
    name = await scene.start(4)
    events = await scene.follow(name)
    places = [e.sequence for e in events if e.WhichOneof("kind") == "turn_committed"]
    forked = await scene.stub.ForkConversation(
        conversations.ForkConversationRequest(conversation_id=name, at_sequence=places[1])
    )
    fork = forked.conversation.conversation_id
    await scene.stub.SendMessage(
        conversations.SendMessageRequest(conversation_id=fork, content="Go on.")
    )
    log = await scene.follow(fork)
    shown = [r.output.partition("lines: ")[2] for r in tool_results(log)]
    first = shown[0].split("'")[1]
    assert shown[1].startswith(f"['{first}', "), shown
    assert shown[1].count("made_by_") == 2, shown
