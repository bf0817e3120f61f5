"""The interpreter that keeps its variables: what lasts, what ends it, what it cannot pretend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agentmesh_tool_runner.sandbox.backend import Workspace
from agentmesh_tool_runner.sandbox.interpreter import Interpreter
from agentmesh_tool_runner.sandbox.local import LocalBackend
from agentmesh_tool_runner.sandbox.model import (
    EndReason,
    ExecutionSpec,
    InterpreterUnavailableError,
    Limits,
    WorkspaceKey,
)
from agentmesh_tool_runner.sandbox.resident_client import ResidentLostError

from ..processes import sleepers_become  # noqa: TID252 - the tests are one tree
from ..results import Result, result_of  # noqa: TID252 - the tests are one tree
from .conftest import LIMITS, collect, make_local_backend
from .test_warm import first_line


@pytest.fixture
async def warm(tmp_path: Path) -> AsyncIterator[LocalBackend]:
    backend = make_local_backend("bubblewrap", tmp_path)
    await backend.start()
    if not backend.keeps_variables:
        await backend.close()
        pytest.skip("no control groups, and so no interpreters")
    yield backend
    await backend.close()


@pytest.fixture
async def session(warm: LocalBackend) -> Workspace:
    return await warm.workspace(WorkspaceKey("tenant", "conv_a"))


class Ran:
    """What a source did in the interpreter."""

    def __init__(self, fresh: bool | None, result: Result) -> None:
        self.fresh = fresh
        self.stdout, self.stderr = result.stdout, result.stderr
        self.reason = result.outcome.reason
        self.code = result.outcome.exit_code
        self.usage = result.outcome.usage


def spec(source: str, limits: Limits = LIMITS, **fields: Any) -> ExecutionSpec:
    files = {"main.py": source.encode()}
    return ExecutionSpec([], files=files, stateful=True, limits=limits, **fields)


async def interpret(workspace: Workspace, source: str, **fields: Any) -> Ran:
    execution = await workspace.execute(spec(source, **fields))
    result = await result_of(execution)
    return Ran(execution.fresh_interpreter, result)


async def test_variables_last_and_the_last_expression_is_shown(session: Workspace) -> None:
    first = await interpret(session, "import math\nx = [1]\ndef f(): raise KeyError(x)")
    assert (first.fresh, first.stdout, first.code) == (True, "", 0)
    second = await interpret(session, "x.append(math.pi > 3)\nx")
    assert (second.fresh, second.stdout) == (False, "[1, True]\n")
    assert (await interpret(session, "_ + [2]")).stdout == "[1, True, 2]\n"
    failed = await interpret(session, "y = 1\nf()")
    assert (failed.reason, failed.code) == (EndReason.EXITED, 1)
    assert "    def f(): raise KeyError(x)\n" in failed.stderr
    assert (await interpret(session, "y, None")).stdout == "(1, None)\n"
    assert "SyntaxError" in (await interpret(session, "x = (")).stderr
    fed = await interpret(session, "import os\ninput() + os.environ['A']", stdin=b"in\n")
    assert "KeyError: 'A'" in fed.stderr
    fed = await interpret(
        session, "input() + os.environ['A']", stdin=b"in\n", environment={"A": "!"}
    )
    assert fed.stdout == "'in!'\n"
    assert (await interpret(session, "x")).fresh is False


ENDS: list[tuple[str, dict[str, Any], EndReason]] = [
    ("while True: pass", {"wall_seconds": 0.5}, EndReason.WALL_TIMEOUT),
    ("while True: pass", {"cpu_seconds": 0.2}, EndReason.CPU_TIMEOUT),
    ("while True: print('x' * 1000)", {"output_bytes": 5000}, EndReason.OUTPUT_LIMIT),
    ("y = bytearray(300 << 20)", {"memory_bytes": 100 << 20}, EndReason.OUT_OF_MEMORY),
    ("import os; os.kill(os.getpid(), 9)", {}, EndReason.SIGNALED),
    ("exit(3)", {}, EndReason.EXITED),
]


async def test_what_ends_it_is_told_and_the_next_is_new(session: Workspace) -> None:
    for source, limits, reason in ENDS:
        await interpret(session, "x = 1")
        assert (await interpret(session, "x")).stdout == "1\n", source
        ended = await interpret(session, source, limits=replace(LIMITS, **limits))
        assert (ended.fresh, ended.reason) == (False, reason)
        after = await interpret(session, "x")
        assert after.fresh is True, source
        assert "NameError" in after.stderr


async def test_cpu_is_that_of_the_execution_alone(session: Workspace) -> None:
    await interpret(session, "import time\nwhile time.process_time() < 0.5: pass")
    limits = replace(LIMITS, cpu_seconds=0.4)
    after = await interpret(session, "sum(range(1000))", limits=limits)
    assert after.stdout == "499500\n"
    assert after.usage.cpu_seconds < 0.3


async def test_one_at_a_time_and_cancel_ends_it_with_all_it_started(session: Workspace) -> None:
    code = "import subprocess, time\nprint('on')\nsubprocess.Popen(['sleep', '43212'])\n"
    running = await session.execute(spec(code + "time.sleep(600)"))
    assert await first_line(running) == "on\n"
    waiting = asyncio.create_task(interpret(session, "'next'"))
    running.cancel()
    assert (await running.outcome()).reason is EndReason.CANCELLED
    after = await waiting
    assert (after.fresh, after.stdout) == (True, "'next'\n")
    assert await asyncio.to_thread(sleepers_become, "43212", 0)


async def test_programs_run_beside_it_and_share_the_files_alone(
    warm: LocalBackend, session: Workspace
) -> None:
    mark = "import os\nos.environ['MARK'] = open('f', 'w').name\nos.readlink('/proc/self/ns/pid')"
    mine = await interpret(session, mark)
    look = "ls; echo [$MARK]; readlink /proc/self/ns/pid"
    ended = await collect(session, ExecutionSpec(["/bin/sh", "-c", look], limits=LIMITS))
    name, marked, namespace = ended.stdout.split()
    assert (name, marked) == ("f", "[]")
    assert namespace not in mine.stdout
    assert (await interpret(session, "os.environ['MARK']")).fresh is False


async def test_no_session_has_the_variables_of_another(
    warm: LocalBackend, session: Workspace
) -> None:
    await interpret(session, "secret = 1")
    other = await warm.workspace(WorkspaceKey("other", "conv_a"))
    seen = await interpret(other, "secret")
    assert (seen.fresh, seen.code) == (True, 1)
    await warm.delete_workspace(session.key)
    again = await warm.workspace(session.key)
    assert (await interpret(again, "secret")).fresh is True


FORGED = """
import json, os, socket
for number in range(3, 64):
    try:
        control = socket.socket(fileno=os.dup(number))
        for nonce in ("", None, 0, "0" * 32):
            control.send(json.dumps({"done": nonce, "code": 0}).encode())
        control.send(b"[" * 100000)
    except OSError:
        pass
"""


async def test_no_false_end_is_believed(session: Workspace) -> None:
    """It may say what it likes on its socket: it ends no other execution, nor this one."""
    forged = await interpret(session, FORGED + "print('still here')\nexit(7)")
    assert (forged.stdout, forged.code) == ("still here\n", 7)
    await interpret(session, FORGED)
    after = await interpret(session, "print('a')\nimport sys; sys.exit(4)")
    assert (after.stdout, after.code) == ("a\n", 4)


FLOOD = """
import socket
control = socket.socket(fileno=4)
while True:
    control.send(b"{}")
"""


async def test_who_says_too_much_is_ended(session: Workspace) -> None:
    """Every word costs the service as much as it costs the program."""
    ended = await interpret(session, FLOOD)
    assert ended.reason is EndReason.SANDBOX_LOST
    assert (await interpret(session, "1 + 1")).stdout == "2\n"


async def test_where_there_are_no_control_groups_there_is_none(tmp_path: Path) -> None:
    backend = make_local_backend("bubblewrap", tmp_path, use_cgroups=False)
    await backend.start()
    try:
        assert not backend.keeps_variables
        workspace = await backend.workspace(WorkspaceKey("tenant", "conv_a"))
        with pytest.raises(InterpreterUnavailableError, match="control groups"):
            await workspace.execute(spec("1"))
    finally:
        await backend.close()


async def test_one_that_always_dies_is_told_instead_of_tried_for_ever(
    session: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise ResidentLostError("gone")

    monkeypatch.setattr(Interpreter, "run", lost)
    async with asyncio.timeout(60):
        with pytest.raises(InterpreterUnavailableError, match="died"):
            await session.execute(spec("1"))
    monkeypatch.undo()
    assert (await interpret(session, "41 + 1")).stdout == "42\n"
