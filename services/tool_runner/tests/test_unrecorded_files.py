"""What a tool call or a person did to files stays open until the store has taken it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
from agentmesh.conversation.v1 import message_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.calls import RunningCall
from agentmesh_tool_runner.sandbox.model import WorkspaceKey
from meshkit.testkit import raises_rich

from .conftest import CONVERSATION, RUN, TENANT, Mesh, first_output, until

KEY = WorkspaceKey(TENANT, CONVERSATION)
MAKE = json.dumps({"language": "shell", "code": "printf x >> made; cat made"})
# It goes on once there is a file.
WAIT = "echo go; until [ -e done ]; do sleep 0.02; done; printf x >> made"
SLOW = json.dumps({"language": "shell", "code": WAIT})


async def write_done(mesh: Mesh) -> None:
    """What a call of SLOW waits for."""
    done = pb.WriteFileRequest(conversation_id=CONVERSATION, path="done")
    await mesh.stub.WriteFile(iter([done]), metadata=mesh.user())


async def call_unrecorded(mesh: Mesh) -> RunningCall:
    """A call that has ended while the store is away."""
    mesh.store.down_for_records = 100
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"):
        await mesh.call_raw("code_executor", MAKE, "call_1")
    mesh.store.down_for_records = 0
    [running] = mesh.runner.calls._calls.values()
    return running


async def names(mesh: Mesh) -> list[str]:
    """The files that are there for whoever looks."""
    request = pb.ListFilesRequest(conversation_id=CONVERSATION, all_kinds=True)
    answer = await mesh.stub.ListFiles(request, metadata=mesh.user())
    return [file.path for file in answer.files]


def waiting(lock: Any) -> int:
    """How many wait for a lock."""
    return len(lock._waiters or ())


async def test_files_of_a_call_that_could_not_be_recorded_are_in_its_record(mesh: Mesh) -> None:
    await call_unrecorded(mesh)
    # As when another one needs its place.
    await mesh.workspaces.release(KEY)
    again = await mesh.call_raw("code_executor", MAKE, "call_1")
    assert again.result.output == "exit code 0\nx"
    assert mesh.store.recorded[-1].HasField("workspace")
    await mesh.workspaces.release(KEY)
    assert not mesh.workspaces.count, "nothing holds it once the call is recorded"
    assert await names(mesh) == ["made"]


async def test_whoever_closes_it_at_the_end_of_a_call_comes_too_early(mesh: Mesh) -> None:
    stream = mesh.start_call("code_executor", SLOW, "call_1")
    await first_output(stream)
    await write_done(mesh)
    [running] = mesh.runner.calls._calls.values()
    acting = running.acting
    assert acting is not None
    async with mesh.workspaces._lock(KEY):
        # Its turn comes before that of whoever records the call.
        closing = asyncio.create_task(mesh.workspaces.release(KEY))
        await until(lambda: running.reply is not None or acting.done(), "it has ended")
    await closing
    async for _ in stream:
        pass
    assert sorted(await names(mesh)) == ["done", "made"]


async def test_a_killed_call_holds_nothing_open(mesh: Mesh) -> None:
    await call_unrecorded(mesh)
    mesh.store.raise_fence(RUN, TENANT)
    await until(lambda: not mesh.runner.calls._calls, "killed")
    await mesh.workspaces.release(KEY)
    assert not mesh.workspaces.count
    assert await names(mesh) == []


async def test_a_call_that_nobody_asks_for_again_holds_nothing_open_for_ever(mesh: Mesh) -> None:
    running = await call_unrecorded(mesh)
    await mesh.runner.calls.end_what_is_stale()
    await mesh.workspaces.release(KEY)
    assert mesh.workspaces.count == 1
    running.touched_at = float("-inf")
    await mesh.runner.calls.end_what_is_stale()
    await mesh.workspaces.release(KEY)
    assert not mesh.workspaces.count


async def test_a_long_call_is_kept_from_its_end_on(mesh: Mesh) -> None:
    mesh.store.down_for_records = 100
    stream = mesh.start_call("code_executor", SLOW, "call_1")
    await first_output(stream)
    [running] = mesh.runner.calls._calls.values()
    running.touched_at = float("-inf")
    await write_done(mesh)
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"):
        async for _ in stream:
            pass
    await mesh.runner.calls.end_what_is_stale()
    assert list(mesh.runner.calls._calls.values()) == [running]


async def test_a_call_whose_workspace_was_lost_before_its_record_says_so(mesh: Mesh) -> None:
    await call_unrecorded(mesh)
    # As when the process that holds all mounts dies.
    mesh.workspaces.forget_all()
    again = await mesh.call_raw("code_executor", MAKE, "call_1")
    assert again.result.outcome == message_pb2.TOOL_OUTCOME_ERROR
    assert again.result.failure == message_pb2.TOOL_FAILURE_CRASHED
    assert "lost" in again.result.output
    assert not mesh.store.recorded[-1].HasField("workspace")


async def test_a_person_s_change_is_kept_whoever_closes_the_workspace(mesh: Mesh) -> None:
    await names(mesh)
    workspaces, mounted = mesh.workspaces, mesh.workspaces._open[KEY]
    await mounted.lock.acquire()
    request = pb.MakeFolderRequest(conversation_id=CONVERSATION, path="folder")
    making = mesh.stub.MakeFolder(request, metadata=mesh.user())
    await until(lambda: waiting(mounted.lock) == 1, "it is about to make it")
    turn = workspaces._lock(KEY)
    async with turn:
        closing = asyncio.create_task(workspaces.release(KEY))
        await until(lambda: waiting(turn) == 1, "it is to be closed")
        mounted.lock.release()
        await until(lambda: waiting(turn) == 2, "it is to be saved, after that")
    await closing
    await making
    assert await names(mesh) == ["folder"]
