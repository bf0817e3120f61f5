"""Output is kept in a bounded buffer, read again from anywhere in it, and fills no memory."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.calls import Authority, ToolCall
from agentmesh_tool_runner.executions import (
    BufferBounds,
    ExecutionLog,
    ExecutionRegistry,
    Finished,
    Item,
    OutputRemovedError,
    UnknownExecutionError,
)
from agentmesh_tool_runner.runs import _Begun
from agentmesh_tool_runner.sandbox.model import EndReason, Outcome, Output, Stream
from agentmesh_tool_runner.sandbox.mounted import Stay
from agentmesh_tool_runner.server import ToolRunner
from agentmesh_tool_runner.store_streams import DeltaPublisher
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory, raises_rich

from .conftest import Mesh, settings
from .memory_store import MemoryStore

MIB = 1024 * 1024


def piece(size: int = 1000) -> Output:
    return Output(Stream.STDOUT, bytes(size))


async def read(log: ExecutionLog, first: int) -> list[tuple[int, Item]]:
    return [each async for each in log.read(first, patience=60) if each is not None]


async def test_the_newest_items_are_kept() -> None:
    log = ExecutionLog("e", bound=5000)
    for _ in range(10):
        log.append(piece())
    log.append(Finished(Outcome(EndReason.EXITED)))
    assert [number for number, _ in await read(log, 8)] == [8, 9, 10]
    assert await read(log, 11) == []
    for first in (0, 5, 12):
        with pytest.raises(OutputRemovedError) as removed:
            await read(log, first)
        assert (removed.value.oldest, removed.value.head) == (6, 11)
    assert log.kept_bytes <= 5000


async def test_whoever_holds_back_is_waited_for_and_whoever_does_not_is_left_behind() -> None:
    log = ExecutionLog("e", bound=5000)
    holder = log.read(0, patience=60, holds_back=True)
    other = log.read(0, patience=60)
    log.append(piece())
    assert await anext(holder) == await anext(other) == (0, piece())
    for _ in range(3):
        await log.room(piece())
        log.append(piece())
    waiting = asyncio.ensure_future(log.room(piece()))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await anext(holder) == (1, piece())
    await waiting
    log.append(piece())
    await holder.aclose()
    for _ in range(9):
        await log.room(piece())
        log.append(piece())
    with pytest.raises(OutputRemovedError):
        await anext(other)


async def test_a_reader_is_told_when_there_is_nothing_and_when_it_cannot_be_started() -> None:
    log = ExecutionLog("e")
    reader = log.read(0, patience=0.01)
    assert await anext(reader) is None
    log.fail(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await anext(reader)


def test_what_ended_first_is_forgotten_first() -> None:
    registry = ExecutionRegistry(BufferBounds(each=5000, ended=4000))
    for name in "abcd":
        log = registry.open("acme", name, b"")
        log.append(piece(1500))
        if name != "a":
            log.append(Finished(Outcome(EndReason.EXITED)))
    registry.open("acme", "e", b"")
    for name in "acde":
        registry.find("acme", name)
    with pytest.raises(UnknownExecutionError):
        registry.find("acme", "b")


class Lost:
    """An execution whose output cannot be read any more."""

    fresh_interpreter = None
    cancelled = False

    async def output(self) -> AsyncIterator[Output]:
        yield piece()
        raise OSError("the pipe broke")

    async def outcome(self) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def cancel(self) -> None:
        self.cancelled = True


async def test_readers_of_an_execution_that_is_lost_are_told(mesh: Mesh) -> None:
    runs: Any = mesh.runner.runs
    log = runs.registry.open("acme", "lost", b"")
    execution: Any = Lost()
    workspace: Any = None
    log.execution = execution
    begun: Any = _Begun(workspace, execution, Stay())
    await runs._follow(log, begun, None, fresh=False)
    with pytest.raises(OSError, match="the pipe broke"):
        await read(log, 0)
    assert execution.cancelled
    assert log.finished_at is not None, "it is forgotten like those that ended"


def test_messages_with_deltas_stay_below_what_a_service_receives() -> None:
    publisher = DeltaPublisher(turns=None)  # type: ignore[arg-type]  # nothing is sent
    authority = Authority("acme", "conv", "run", 1, "token")
    call = ToolCall(
        turn=1, tool_call_id="c", tool="t", arguments_json="{}", agent="a", message_id="m"
    )
    for _ in range(200):
        publisher.publish(authority, call, Output(Stream.STDOUT, "€".encode() * 20_000))
    sizes, numbers = [], []
    while publisher._waiting:
        request = publisher._next_request()
        sizes.append(request.ByteSize())
        numbers += [delta.first_index for delta in request.deltas]
    assert max(sizes) < 2 * MIB
    assert numbers == sorted(numbers)
    assert sum(sizes) > 200 * 60_000


@pytest.fixture
async def small(
    mesh_hosts: HostFactory, store_host: tuple[MemoryStore, ServiceHost], tmp_path: Path
) -> Any:
    """A mesh that keeps little, and lets programs write much."""
    store, host = store_host
    values = {"execution_buffer_mib": 1, "max_execution_output_mib": 2048}
    runner = ToolRunner(settings(tmp_path, host.grpc_address, **values))
    await runner.host.start()
    yield Mesh(runner, store, mesh_hosts.channels())
    await runner.host.stop()


async def test_a_gibibyte_of_output(small: Mesh) -> None:
    """It passes at the reader's pace; what is kept of it, and what a reader comes late for."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    request = pb.ExecuteRequest(
        execution_id="e1",
        language=pb.EXECUTION_LANGUAGE_SHELL,
        code="head -c 1073741824 /dev/zero",
        limits=pb.ExecutionLimits(output_bytes=2048 * MIB),
    )
    received = 0
    last = pb.ExecuteResponse()
    async for last in small.stub.Execute(request, metadata=small.user()):
        received += len(last.item.output.data)
    assert received == 1024 * MIB
    assert last.item.finished.exit_code == 0
    assert last.item.finished.usage.output_bytes == received
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 128 * 1024  # KiB, of a process that is server and client
    attach = pb.AttachRequest(execution_id="e1", from_chunk=0)
    with raises_rich(grpc.StatusCode.OUT_OF_RANGE, "OUTPUT_REMOVED") as removed:
        _ = [i async for i in small.stub.Attach(attach, metadata=small.user())]
    assert removed.error is not None
    oldest = int(removed.error.metadata["oldest_chunk"])
    attach.from_chunk = oldest
    items = [i.item async for i in small.stub.Attach(attach, metadata=small.user())]
    assert [item.chunk for item in items] == list(range(oldest, last.item.chunk + 1))
    assert items[-1] == last.item
    assert 0 < sum(len(item.output.data) for item in items) <= MIB
    assert removed.error.metadata["next_chunk"] == str(last.item.chunk + 1)


async def test_more_output_than_it_may_write(small: Mesh) -> None:
    items = await small.execute(
        "yes", language=pb.EXECUTION_LANGUAGE_SHELL, limits=pb.ExecutionLimits(output_bytes=9000)
    )
    assert sum(len(item.output.data) for item in items) == 9000
    assert items[-2].truncated.kept_bytes == 9000
    assert items[-1].finished.reason == pb.EXECUTION_END_REASON_OUTPUT_LIMIT


async def test_a_terminal_over_grpc(small: Mesh) -> None:
    """Sized at first, resized, told the end of its input; all it writes is standard output."""
    request = pb.ExecuteRequest(
        execution_id="e1",
        language=pb.EXECUTION_LANGUAGE_SHELL,
        code="stty size; read line; stty size; cat >&2; tty",
        keep_stdin_open=True,
        terminal=pb.Terminal(rows=24, columns=80),
    )
    stream: Any = small.stub.Execute(request, metadata=small.user())

    async def until(wanted: bytes) -> None:
        seen = b""
        while wanted not in seen:
            item = (await stream.read()).item
            assert item.output.stream in (pb.OUTPUT_STREAM_UNSPECIFIED, pb.OUTPUT_STREAM_STDOUT)
            seen += item.output.data

    async def write(**fields: Any) -> None:
        wanted = pb.WriteInputRequest(execution_id="e1", **fields)
        await small.stub.WriteInput(wanted, metadata=small.user())

    await until(b"24 80\r\n")
    await write(data=b"go\n", resize=pb.Terminal(rows=50, columns=132))
    await until(b"50 132\r\n")
    await write(data=b"typed", eof=True)
    await until(b"/dev/pts/0\r\n")
    with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_ENDED"):
        while True:
            await write(data=b"x")
            await asyncio.sleep(0.01)
    await small.execute("print()", execution_id="e2")
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="resize"):
        wanted = pb.WriteInputRequest(execution_id="e2", resize=pb.Terminal(rows=1, columns=1))
        await small.stub.WriteInput(wanted, metadata=small.user())
