"""The terminal chat on a mesh of real processes, with an agent that asks and wants to write."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from agentmesh_cli.supervisor import read_mesh_file
from agentmesh_cli.supervisor.mesh_file import MeshFile
from agentmesh_client import AgentMesh

from clients.cli.tests.on_a_mesh import COMMAND, WITHOUT_MODEL, LocalMesh, Terminal

pytestmark = pytest.mark.timeout(600)
EXAMPLE = Path(__file__).parents[3] / "examples" / "approvals"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    environment = {
        "AGENTMESH_AGENTS_FILE": str(EXAMPLE / "agents.yaml"),
        "AGENTMESH_SCRIPT_FILE": str(EXAMPLE / "script.yaml"),
    }
    local = LocalMesh(tmp_path_factory.mktemp("mesh"), environment)
    local("up", "--wait", "--any-port", "--timeout", "200", "--drain", "2")
    yield local
    local("down")


async def _start(address: str) -> str:
    async with AgentMesh(address) as client:
        return (await client.start("write a note", agents=["tidier"], human_input=True)).id


@pytest.fixture
def conversation(mesh: LocalMesh) -> str:
    """One whose agent asks what to write."""
    return asyncio.run(_start(_running(mesh).addresses["gateway"]))


def _running(mesh: LocalMesh) -> MeshFile:
    found = read_mesh_file(mesh.data_dir)
    assert found is not None
    return found


def opened(mesh: LocalMesh, conversation: str) -> Terminal:
    terminal = Terminal("chat", conversation, "--data-dir", str(mesh.data_dir))
    terminal.read_until("What shall the note say?")
    terminal.read_until("your next line is the answer")
    return terminal


def test_questions_are_answered_and_calls_decided_over_a_gateway_that_dies(
    mesh: LocalMesh, conversation: str
) -> None:
    terminal = opened(mesh, conversation)
    os.kill(_running(mesh).pids["gateway"], signal.SIGKILL)
    terminal.type_line("buy milk")
    terminal.read_until("Is this note meant to be kept?")
    terminal.read_until("type y to approve the call")
    terminal.type_line("/nothing")
    terminal.read_until("/pause")
    terminal.type_line("maybe")
    terminal.type_line("y of course")
    terminal.read_until("wrote note.txt")
    terminal.type_line("/quit")
    terminal.read_until("")
    assert terminal.process.wait(60) == 0
    assert f"come back with: agentmesh chat {conversation}" in terminal.shown
    assert terminal.shown.count("? What shall the note say?") == 1, "nothing is shown twice"
    shown = mesh("show", conversation)
    assert "of course" in shown
    assert shown.count("buy milk") >= 1


def test_from_leaves_events_out_but_nothing_that_waits_for_an_answer(
    mesh: LocalMesh, conversation: str
) -> None:
    before = opened(mesh, conversation)
    before.type_line("/quit")
    before.read_until("")
    asked = json.loads(mesh("approvals", "--conversation", conversation, "--json"))[0]
    behind = str(int(asked["requested_sequence"]) + 1)
    terminal = Terminal("chat", conversation, "--from", behind, "--data-dir", str(mesh.data_dir))
    terminal.read_until("What shall the note say?")
    terminal.read_until("your next line is the answer")
    terminal.type_line("buy milk")
    terminal.read_until("type y to approve the call")
    assert "write a note" not in terminal.shown
    terminal.type_line("/quit")
    terminal.read_until("")
    assert terminal.process.wait(60) == 0
    assert "--from 0 is too small" in mesh.try_run("chat", conversation, "--from", "0").stderr


def test_a_call_is_rejected_with_a_reason(mesh: LocalMesh, conversation: str) -> None:
    terminal = opened(mesh, conversation)
    terminal.type_line("buy milk")
    terminal.read_until("type y to approve the call")
    terminal.type_line("n not on paper")
    terminal.read_until("rejected")
    terminal.type_line("\x04")  # Ctrl-D
    terminal.read_until("")
    assert terminal.process.wait(60) == 0
    assert "not on paper" in mesh("show", conversation)


def test_ctrl_c_ends_the_run_and_then_leaves(mesh: LocalMesh, conversation: str) -> None:
    terminal = opened(mesh, conversation)
    terminal.process.send_signal(signal.SIGINT)
    terminal.read_until("cancelling")
    terminal.read_until("cancelled")
    terminal.process.send_signal(signal.SIGINT)
    terminal.read_until("")
    assert terminal.process.wait(60) == 130
    assert conversation in mesh("list", "--status", "cancelled")


def test_lines_of_a_pipe_are_said_and_the_run_is_seen_to_its_end(
    mesh: LocalMesh, conversation: str
) -> None:
    done = subprocess.run(
        [*COMMAND, "chat", conversation, "--data-dir", str(mesh.data_dir)],
        env=WITHOUT_MODEL, input="\n/cancel no more of it\n", capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert conversation in mesh("list", "--status", "cancelled")


def test_what_cannot_be_opened_is_said_at_once(mesh: LocalMesh) -> None:
    missing = mesh.try_run("chat", "conv_nothing")
    assert missing.returncode == 1
    assert "conv_nothing" in missing.stderr
    assert "Ctrl-C ends the run" in mesh("chat", "--help")
