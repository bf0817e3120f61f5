"""What a program leaves is kept whatever whoever reads its output does."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc
import pytest
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.sandbox.model import WorkspaceKey
from agentmesh_tool_runner.sandbox.mounted import Stay

from .conftest import CONVERSATION, TENANT, Mesh, until

KEY = WorkspaceKey(TENANT, CONVERSATION)
# It ends in the middle of what it writes, which nobody can read to its end.
WRITER = """
import os, sys, threading

def write():
    while True:
        os.write(1, b"x" * 65536)

threading.Thread(target=write, daemon=True).start()
sys.stdin.readline()
open("made", "w").write("1")
os._exit(0)
"""
_OUTPUT_BYTES = 64 << 20


class SlowReader:
    """A call whose first answer was read, and as yet no other: it holds back what it runs."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        request = pb.ExecuteRequest(
            execution_id="exec_slow",
            code=WRITER,
            language=pb.EXECUTION_LANGUAGE_PYTHON,
            conversation_id=CONVERSATION,
            keep_stdin_open=True,
            limits=pb.ExecutionLimits(output_bytes=_OUTPUT_BYTES),
        )
        self.call: Any = mesh.stub.Execute(request, metadata=mesh.user())

    @property
    def log(self) -> Any:
        """What the service knows of the execution."""
        return self.mesh.runner.runs.registry.find(TENANT, "exec_slow")

    async def until_nothing_moves(self) -> None:
        """Until the connection has taken all that it takes, too."""
        await self.call.read()
        for at in itertools.count():
            before = self.log.head
            await asyncio.sleep(0.2)
            if self.log.execution._held_back and self.log.head == before:
                return
            assert at < 300, "it never holds back"

    async def let_it_end(self) -> None:
        """The program ends, and whoever reads does not know."""
        request = pb.WriteInputRequest(execution_id="exec_slow", data=b"\n", eof=True)
        await self.mesh.stub.WriteInput(request, metadata=self.mesh.user())
        await until(lambda: self.log.execution.finished, "it has ended")
        assert self.log.finished_at is None

    async def rest(self) -> pb.ExecutionItem:
        """Reads all; the last item."""
        item = pb.ExecutionItem()
        while not item.HasField("finished"):
            item = (await self.call.read()).item
        return item


async def slow_reader(mesh: Mesh) -> SlowReader:
    """One whose program runs, and cannot write more."""
    reader = SlowReader(mesh)
    await reader.until_nothing_moves()
    return reader


async def names(mesh: Mesh) -> str:
    """The files that the next program finds."""
    show = "import os; print(os.listdir())"
    items = await mesh.execute(show, conversation_id=CONVERSATION)
    return b"".join(item.output.data for item in items).decode()


async def test_files_are_kept_at_the_end_of_the_program_and_not_of_its_reader(mesh: Mesh) -> None:
    reader = await slow_reader(mesh)
    files = mesh.store.files.of(CONVERSATION)
    await reader.let_it_end()
    await until(lambda: files.now.generation == 1, "its files are kept")
    workspaces = mesh.runner.sandboxes.backend.workspaces
    await until(lambda: not workspaces.sessions(TENANT)[0].users, "the reader does not use it")
    # As when it is idle for long, or another one needs its place.
    await workspaces.release(KEY)
    assert not workspaces.count
    last = await reader.rest()
    assert (last.finished.reason, last.finished.detail) == (pb.EXECUTION_END_REASON_EXITED, "")
    assert "made" in await names(mesh)


async def test_a_workspace_is_not_closed_before_what_was_last_done_in_it_is_kept(
    mesh: Mesh,
) -> None:
    reader = await slow_reader(mesh)
    files, workspaces = mesh.store.files, mesh.runner.sandboxes.backend.workspaces
    files.answers.clear()
    await reader.let_it_end()
    running: Any = mesh.runner.sandboxes.backend
    await until(lambda: not running._running, "nothing runs there")
    await workspaces.release(KEY)
    assert workspaces.count == 1
    close = pb.CloseSessionRequest(conversation_id=CONVERSATION)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await mesh.stub.CloseSession(close, metadata=mesh.user())
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    files.answers.set()
    await until(lambda: files.of(CONVERSATION).now.generation == 1, "its files are kept")
    await reader.rest()
    assert "made" in await names(mesh)


async def test_whoever_closes_it_at_the_end_of_a_program_comes_too_early(mesh: Mesh) -> None:
    reader = await slow_reader(mesh)
    backend: Any = mesh.runner.sandboxes.backend
    workspaces = backend.workspaces
    async with workspaces._lock(KEY):
        # Its turn comes before that of whoever keeps the files.
        closing = asyncio.create_task(workspaces.release(KEY))
        await asyncio.sleep(0)
        await reader.let_it_end()
        await until(lambda: not backend._running, "nothing runs there")
    await closing
    assert workspaces.count == 1
    await reader.rest()
    assert "made" in await names(mesh)


async def test_a_stay_that_is_over_keeps_nothing_open(mesh: Mesh) -> None:
    """As of a program in a workspace of its own, which nobody saves."""
    await names(mesh)
    workspaces, stay = mesh.runner.sandboxes.backend.workspaces, Stay()
    stay.close()
    workspaces.stay(KEY, stay)
    await workspaces.release(KEY)
    assert not workspaces.count
