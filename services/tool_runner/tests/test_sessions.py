"""Sessions: open while they are used, closed and saved by time or on request, the owner's alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import errors_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.sandbox.files import writing
from agentmesh_tool_runner.sandbox.model import WorkspaceKey
from agentmesh_tool_runner.server import ToolRunner
from meshkit.context import Principal, principal_scope
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory

from .conftest import CONVERSATION, Mesh, backends, settings, until
from .file_client import Files, refusal
from .memory_store import MemoryStore

NOT_FOUND = grpc.StatusCode.NOT_FOUND


class Runners:
    """Starts runners with settings of the test's own."""

    def __init__(self, hosts: HostFactory, store: tuple[MemoryStore, ServiceHost], folder: Path):
        self._hosts, self._store, self._folder = hosts, store, folder
        self.started: list[ToolRunner] = []

    async def start(self, **values: Any) -> Mesh:
        if not backends():
            pytest.skip("neither bubblewrap nor Landlock is here")
        store, host = self._store
        runner = ToolRunner(settings(self._folder, host.grpc_address, **values))
        await runner.host.start()
        self.started.append(runner)
        return Mesh(runner, store, self._hosts.channels())


@pytest.fixture
async def runners(
    mesh_hosts: HostFactory, store_host: tuple[MemoryStore, ServiceHost], tmp_path: Path
) -> AsyncIterator[Runners]:
    runners = Runners(mesh_hosts, store_host, tmp_path)
    yield runners
    for runner in runners.started:
        await runner.host.stop()


async def is_open(files: Files) -> bool:
    return bool((await files.call_bare("ListSessions")).sessions)


async def closed(files: Files) -> None:
    async with asyncio.timeout(60):
        while await is_open(files):
            await asyncio.sleep(0.02)


async def test_a_session_tells_of_itself_to_its_own_tenant(mesh: Mesh) -> None:
    mine, theirs = Files(mesh), Files(mesh, tenant="other")
    assert (await refusal(mine.call("GetSession"))).code is NOT_FOUND
    await mine.write("f", b"x")
    session = (await mine.call("GetSession")).session
    assert (session.conversation_id, session.backend) == (CONVERSATION, backends()[0])
    assert (session.users, session.executions) == (0, 0)
    lives = session.expires_at.ToNanoseconds() - session.opened_at.ToNanoseconds()
    assert lives == 14_400 * 10**9
    waits = session.idle_expires_at.ToNanoseconds() - session.used_at.ToNanoseconds()
    assert waits == 300 * 10**9
    assert (await mine.call_bare("ListSessions")).sessions[0].conversation_id == CONVERSATION
    assert not await is_open(theirs)
    for method in ("GetSession", "CloseSession"):
        assert (await refusal(theirs.call(method))).code is NOT_FOUND
    await mesh.execute("print(1)")
    assert len((await mine.call_bare("ListSessions")).sessions) == 1
    await mine.call("CloseSession")
    assert not await is_open(mine)
    assert (await refusal(mine.call("CloseSession"))).code is NOT_FOUND
    assert await mine.read("f") == b"x"


async def test_closing_saves_what_nobody_saved_yet(mesh: Mesh) -> None:
    with principal_scope(Principal("alice", "acme", 2)):
        backend = mesh.runner.sandboxes.backend
        workspace = await backend.workspace(WorkspaceKey("acme", CONVERSATION))
        await workspace.change(writing.write_file, "f", b"left by a program")
    files = Files(mesh)
    await files.call("CloseSession")
    assert await files.read("f") == b"left by a program"


async def test_what_runs_keeps_it_open_and_closing_can_end_it(runners: Runners) -> None:
    mesh = await runners.start(workspace_idle_seconds=0.2, workspace_lifetime_seconds=0.4)
    files = Files(mesh)
    code = "import time; open('f', 'w').write('kept'); print('go', flush=True); time.sleep(600)"
    request = pb.ExecuteRequest(
        code=code,
        language=pb.EXECUTION_LANGUAGE_PYTHON,
        conversation_id=CONVERSATION,
        execution_id="exec_1",
    )
    stream = mesh.stub.Execute(request, metadata=mesh.user())
    ended = asyncio.create_task(_end_of(stream))
    await until(lambda: mesh.runner.sandboxes.backend.sessions("acme"), "opened")
    await asyncio.sleep(1.0)
    session = (await files.call("GetSession")).session
    assert (session.executions, session.users) == (1, 1)
    assert session.expires_at.ToNanoseconds() < session.used_at.ToNanoseconds()
    error = await refusal(files.call("CloseSession"))
    assert error.reason == errors_pb2.ERROR_REASON_SESSION_IN_USE
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    await files.call("CloseSession", kill=True)
    assert await ended == pb.EXECUTION_END_REASON_CANCELLED
    await closed(files)
    assert await files.read("f") == b"kept"


async def _end_of(stream: Any) -> pb.ExecutionEndReason.ValueType:
    items = [response.item async for response in stream]
    reason: pb.ExecutionEndReason.ValueType = items[-1].finished.reason
    return reason


async def test_an_idle_session_is_saved_and_closed(runners: Runners) -> None:
    mesh = await runners.start(workspace_idle_seconds=0.3)
    files = Files(mesh)
    await files.write("f", b"x")
    opened = (await files.call("GetSession")).session.opened_at
    await closed(files)
    assert await files.read("f") == b"x"
    assert (await files.call("GetSession")).session.opened_at.ToNanoseconds() > (
        opened.ToNanoseconds()
    )


async def test_a_session_that_is_old_is_not_used_again(runners: Runners) -> None:
    """Not even if it is in use whenever the service looks for old ones."""
    mesh = await runners.start(workspace_lifetime_seconds=0.3)
    backend = mesh.runner.sandboxes.backend
    with principal_scope(Principal("alice", "acme", 2)):
        workspace = await backend.workspace(WorkspaceKey("acme", CONVERSATION))
        async with workspace.hold():
            await asyncio.sleep(1.0)
            opened = backend.sessions("acme")[0].opened_at
        async with workspace.hold():
            assert backend.sessions("acme")[0].opened_at > opened + 0.5


async def test_a_session_in_constant_use_ends_with_its_lifetime(runners: Runners) -> None:
    mesh = await runners.start(workspace_lifetime_seconds=0.5)
    files = Files(mesh)
    await files.write("f", b"x")
    first = (await files.call("GetSession")).session.opened_at
    async with asyncio.timeout(60):
        while True:
            assert await files.read("f") == b"x"
            found = mesh.runner.sandboxes.backend.sessions("acme")
            if found and found[0].opened_at * 1e9 > first.ToNanoseconds() + 4 * 10**8:
                break
