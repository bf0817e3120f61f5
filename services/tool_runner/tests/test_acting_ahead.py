"""Programs of people start while the store is still asked which files count."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.sandbox.files import reading
from agentmesh_tool_runner.sandbox.model import ExecutionSpec, WorkspaceKey
from agentmesh_tool_runner.server import ToolRunner
from meshkit.context import Principal
from meshkit.identity import principal_scope
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory

from .conftest import CONVERSATION, TENANT, Mesh, settings, until
from .memory_store import MemoryStore
from .test_generations import Pair, pair

__all__ = ["pair"]

PATIENCE = 30.0
KEY = WorkspaceKey(TENANT, CONVERSATION)
LOG = "open('log', 'a').write('x'); print(open('log').read())"
SHOW = "import os; print(sorted(os.listdir()))"


async def printed(mesh: Mesh, code: str, **fields: Any) -> str:
    """What a person's program writes."""
    items = await mesh.execute(code, conversation_id=CONVERSATION, **fields)
    assert items[-1].finished.exit_code == 0, items
    return b"".join(item.output.data for item in items).decode().strip()


async def test_a_program_starts_before_the_store_has_answered_and_nothing_is_told(
    mesh: Mesh,
) -> None:
    assert await printed(mesh, LOG) == "x"
    files = mesh.store.files
    files.answers.clear()
    asked = files.asked
    items = aiter(
        mesh.stub.Execute(
            pb.ExecuteRequest(
                code=LOG, language=pb.EXECUTION_LANGUAGE_PYTHON, conversation_id=CONVERSATION
            ),
            metadata=mesh.user(),
        )
    )
    first = asyncio.ensure_future(anext(items))
    mounted: Any = mesh.workspaces._open[KEY]
    await until(lambda: reading.read_file(mounted.files._root, "log", 0, 9) == b"xx", "it ran")
    assert files.asked == asked + 1
    assert not first.done()
    files.answers.set()
    assert (await first).item.HasField("started")
    rest = [answer.item async for answer in items]
    assert b"".join(item.output.data for item in rest) == b"xx\n"


async def test_in_a_new_conversation_a_program_starts_as_early(mesh: Mesh) -> None:
    files = mesh.store.files
    files.answers.clear()
    first = asyncio.create_task(printed(mesh, LOG))
    await until(lambda: KEY in mesh.workspaces._open, "it is open")
    mounted: Any = mesh.workspaces._open[KEY]

    def written() -> bool:
        try:
            return bool(reading.read_file(mounted.files._root, "log", 0, 9) == b"x")
        except FileNotFoundError:
            return False

    await until(written, "it ran")
    assert not first.done()
    files.answers.set()
    assert await first == "x"
    assert await printed(mesh, LOG) == "xx"


async def test_a_conversation_that_only_others_knew_is_begun_again(pair: Pair) -> None:
    assert await printed(pair.two, LOG) == "x"
    assert await printed(pair.one, LOG) == "xx"
    assert await printed(pair.two, f"{SHOW}; {LOG}") == "['log']\nxxx"


async def test_without_a_first_answer_nothing_stays_open(mesh: Mesh) -> None:
    mesh.store.files.refuses = True
    with pytest.raises(grpc.aio.AioRpcError):
        await printed(mesh, LOG)
    assert not mesh.workspaces.count
    mesh.store.files.refuses = False
    assert await printed(mesh, LOG) == "x"


async def test_what_was_begun_on_old_files_is_undone_and_begins_again(pair: Pair) -> None:
    assert await printed(pair.one, LOG) == "x"
    here = pair.one.workspaces._open[KEY]
    assert await printed(pair.two, LOG) == "xx"
    assert await printed(pair.one, LOG) == "xxx"
    assert here.dropped, "it began on the old files"
    assert await printed(pair.two, f"{SHOW}; {LOG}") == "['log']\nxxxx"


async def test_a_program_that_cannot_start_on_old_files_starts_on_new_ones(pair: Pair) -> None:
    await printed(pair.one, "open('first.py', 'w').write('print(1)')")
    await printed(pair.two, "open('second.py', 'w').write('print(2)')")
    items = await pair.one.execute("", path="second.py", conversation_id=CONVERSATION)
    assert b"".join(item.output.data for item in items) == b"2\n"
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await pair.one.execute("", path="third.py", conversation_id=CONVERSATION)
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND


async def test_without_an_answer_nothing_is_told_or_kept(mesh: Mesh) -> None:
    assert await printed(mesh, LOG) == "x"
    mesh.store.files.refuses = True
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await printed(mesh, LOG)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    mesh.store.files.refuses = False
    assert await printed(mesh, LOG) == "xx"


async def test_whoever_leaves_before_the_answer_leaves_nothing(mesh: Mesh) -> None:
    assert await printed(mesh, LOG) == "x"
    files = mesh.store.files
    files.answers.clear()
    asked = files.asked
    call = asyncio.create_task(printed(mesh, f"{LOG}; import time; time.sleep(600)"))
    backend: Any = mesh.runner.sandboxes.backend
    await until(lambda: files.asked > asked and backend._running, "it runs")
    call.cancel()
    await until(lambda: not backend._running, "it is dead")
    files.answers.set()
    assert await printed(mesh, LOG) == "xx"


async def test_nobody_acts_ahead_where_something_would_be_lost(mesh: Mesh) -> None:
    """What an agent's call has written is kept with its record alone, which comes later."""
    assert await printed(mesh, LOG) == "x"
    hold = mesh.store.hold_record("call_slow")
    slow = asyncio.create_task(
        mesh.call("file_manager", "call_slow", action="write", path="of_the_call", content="1")
    )
    await hold.reached.wait()
    workspaces = mesh.workspaces
    async with workspaces.ahead(KEY, lambda _: True) as counts:
        assert counts is None
    hold.go_on.set()
    await slow
    async with workspaces.use(KEY), workspaces.ahead(KEY, lambda _: True) as counts:
        assert counts is None, "somebody uses it"
    async with workspaces.ahead(KEY, lambda _: False) as counts:
        assert counts is None, "an interpreter has variables"
    with principal_scope(Principal("alice", TENANT, 2)):
        handle = await mesh.runner.sandboxes.backend.workspace(KEY)
        await handle.write_file("unsaved", b"1")
    async with workspaces.ahead(KEY, lambda _: True) as counts:
        assert counts is None, "a file is not kept yet"


async def test_an_interpreter_keeps_its_variables_when_files_come_from_elsewhere(
    pair: Pair,
) -> None:
    await printed(pair.one, "a = 41", stateful=True)
    await printed(pair.two, LOG)
    assert await printed(pair.one, SHOW) == "['log']"
    assert await printed(pair.one, "print(a + 1)", stateful=True) == "42"


async def test_whoever_acts_ahead_waits_for_no_slot(
    mesh_hosts: HostFactory,
    store_host: tuple[MemoryStore, ServiceHost],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another program of the same conversation may have the only one, and wait for the files."""
    store, host = store_host
    runner = ToolRunner(settings(tmp_path, host.grpc_address, max_executions=1))
    await runner.host.start()
    mesh = Mesh(runner, store, mesh_hosts.channels())
    assert await printed(mesh, LOG) == "x"
    rest: Any = mesh.workspaces.rest
    is_settled, looked, go_on = rest.is_settled, asyncio.Event(), asyncio.Event()

    async def slowly(*of_what: Any) -> bool:
        looked.set()
        await go_on.wait()
        return bool(await is_settled(*of_what))

    monkeypatch.setattr(rest, "is_settled", slowly)
    backend: Any = runner.sandboxes.backend
    with principal_scope(Principal("alice", TENANT, 2)):
        handle = await backend.workspace(KEY)
    ahead = asyncio.create_task(printed(mesh, LOG))
    await looked.wait()
    beside = asyncio.create_task(handle.execute(ExecutionSpec([backend.python, "-c", "0"])))
    await until(backend._slots.locked, "the only slot is taken")
    await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(PATIENCE):
        assert await ahead == "xx"
        assert (await (await beside).outcome()).exit_code == 0
    await runner.host.stop()
