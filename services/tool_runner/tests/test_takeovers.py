"""Calls that change hands: workers that come and go, fences that rise, a runner that stops."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest
from agentmesh.conversation.v1 import message_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2_grpc
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.store_streams import watch_fences
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory, raises_rich

from .conftest import CONVERSATION, RUN, TENANT, Mesh, first_output, orphan, until
from .memory_store import MemoryStore

APPEND = "printf x >> count; cat count"


async def test_a_claim_whose_answer_was_lost_is_made_again(mesh: Mesh) -> None:
    mesh.store.lost_claim_answers = 100
    arguments = json.dumps({"language": "shell", "code": APPEND})
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"):
        await mesh.call_raw("code_executor", arguments, "call_1")
    mesh.store.lost_claim_answers = 0
    again = await mesh.call_raw("code_executor", arguments, "call_1")
    assert again.result.output == "exit code 0\nx"


async def test_a_worker_that_could_not_claim_leaves_what_runs_to_the_next(mesh: Mesh) -> None:
    code = f"echo go; until [ -e done ]; do sleep 0.02; done; {APPEND}"
    arguments = json.dumps({"language": "shell", "code": code})
    first = mesh.start_call("code_executor", arguments, "call_1")
    await first_output(first)
    first.cancel()
    mesh.store.fence = 2
    mesh.store.lost_claim_answers = 100
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"):
        await mesh.call_raw("code_executor", arguments, "call_1")
    mesh.store.lost_claim_answers = 0
    second = mesh.start_call("code_executor", arguments, "call_1")
    await first_output(second)
    done = pb.WriteFileRequest(conversation_id=CONVERSATION, path="done")
    await mesh.stub.WriteFile(iter([done]), metadata=mesh.user())
    last = [item async for item in second][-1]
    assert last.finished.result.output == "exit code 0\ngo\nx"
    assert len(mesh.store.recorded) == 1


@pytest.mark.parametrize("gate", ["before_claims", "after_claims"])
async def test_a_worker_that_joins_during_a_claim_gets_one_run(mesh: Mesh, gate: str) -> None:
    getattr(mesh.store, gate).clear()
    arguments = json.dumps({"language": "shell", "code": APPEND})
    first = asyncio.create_task(mesh.call_raw("code_executor", arguments, "call_1"))
    await until(lambda: mesh.store.claims, "claimed")
    mesh.store.fence = 2
    second = asyncio.create_task(mesh.call_raw("code_executor", arguments, "call_1"))
    [running] = mesh.runner.calls._calls.values()
    await until(lambda: running.authority.fence == 2, "joined")
    getattr(mesh.store, gate).set()
    for called in await asyncio.gather(first, second):
        assert called.result.output == "exit code 0\nx"
    assert len(mesh.store.recorded) == 1
    assert mesh.store.steps[1, "call_1"].fence == 2


async def test_an_orphan_that_two_workers_find_is_repeated_by_neither(mesh: Mesh) -> None:
    arguments = json.dumps({"language": "shell", "code": APPEND})
    await orphan(mesh, "code_executor", arguments)
    mesh.store.after_claims.clear()
    first = asyncio.create_task(mesh.call_raw("code_executor", arguments, "call_1"))
    await until(lambda: mesh.store.claims, "claimed")
    mesh.store.fence = 2
    second = asyncio.create_task(mesh.call_raw("code_executor", arguments, "call_1"))
    [running] = mesh.runner.calls._calls.values()
    await until(lambda: running.authority.fence == 2, "joined")
    mesh.store.after_claims.set()
    for called in await asyncio.gather(first, second):
        assert called.result.outcome == message_pb2.TOOL_OUTCOME_UNKNOWN


async def test_a_call_whose_fence_is_raised_during_its_claim_never_acts(mesh: Mesh) -> None:
    mesh.store.after_claims.clear()
    arguments = json.dumps({"path": "a.txt", "content": "text"})
    call = asyncio.create_task(mesh.call_raw("code_writer", arguments, "call_1"))
    await until(lambda: mesh.store.steps, "claimed")
    [running] = mesh.runner.calls._calls.values()
    mesh.store.raise_fence(RUN, TENANT)
    await until(lambda: running.killed, "killed")
    mesh.store.after_claims.set()
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        await call
    assert running.acting is None
    seen = await mesh.call("file_manager", action="list")
    assert seen.result.output == "no files"


async def test_nothing_starts_without_the_store(
    mesh: Mesh, store_host: tuple[MemoryStore, ServiceHost]
) -> None:
    arguments = json.dumps({"language": "shell", "code": APPEND})
    await store_host[1].stop()
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"):
        await mesh.call_raw("code_executor", arguments, "call_1")
    assert mesh.runner.sandboxes.backend.workspaces.count == 0
    request = pb.ListFilesRequest(conversation_id=CONVERSATION)
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"):
        await mesh.stub.ListFiles(request, metadata=mesh.user())


async def test_an_old_fence_starts_nothing(mesh: Mesh) -> None:
    arguments = json.dumps({"language": "shell", "code": APPEND})
    stale = mesh.start_call("code_executor", arguments, "call_1")
    mesh.store.fence = 2
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        async for _ in stale:
            pass
    again = await mesh.call_raw("code_executor", arguments, "call_1")
    assert again.result.output == "exit code 0\nx"


async def test_an_old_fence_neither_joins_a_newer_call_nor_ends_it(mesh: Mesh) -> None:
    code = f"echo go; until [ -e done ]; do sleep 0.02; done; {APPEND}"
    arguments = json.dumps({"language": "shell", "code": code})
    stale = mesh.worker()
    mesh.store.fence = 2
    newer = mesh.start_call("code_executor", arguments, "call_1")
    await first_output(newer)
    items = []
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        async for item in mesh.start_call("code_executor", arguments, "call_1", stale):
            items.append(item)
    assert not items, "not even what it writes"
    done = pb.WriteFileRequest(conversation_id=CONVERSATION, path="done")
    await mesh.stub.WriteFile(iter([done]), metadata=mesh.user())
    last = [item async for item in newer][-1]
    assert last.finished.result.output == "exit code 0\ngo\nx"
    assert mesh.store.steps[1, "call_1"].fence == 2
    assert len(mesh.store.recorded) == 1


async def test_what_was_cancelled_while_nobody_listened_is_ended(mesh: Mesh) -> None:
    """The store repeats the last minute's fences to a watch; a runner may be cut off for longer."""
    code = "echo go; until [ -e done ]; do sleep 0.02; done; echo more; sleep 60"
    arguments = json.dumps({"language": "shell", "code": code})
    stream = mesh.start_call("code_executor", arguments, "call_1")
    await first_output(stream)
    await mesh.runner.calls.end_what_is_stale()
    done = pb.WriteFileRequest(conversation_id=CONVERSATION, path="done")
    await mesh.stub.WriteFile(iter([done]), metadata=mesh.user())
    await first_output(stream)
    mesh.store.fence = 2
    await mesh.runner.calls.end_what_is_stale()
    with raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE"):
        async with asyncio.timeout(30):
            async for _ in stream:
                pass
    assert mesh.store.recorded == []


async def test_a_stop_records_nothing_of_what_it_kills(mesh: Mesh) -> None:
    arguments = json.dumps({"language": "shell", "code": "echo go; sleep 60"})
    stream = mesh.start_call("code_executor", arguments, "call_1")
    await first_output(stream)
    stream.cancel()
    await mesh.runner.host.stop()
    assert mesh.store.recorded == []
    assert mesh.store.steps[1, "call_1"].result is None


async def test_fences_are_heard_after_one_that_failed(
    store_host: tuple[MemoryStore, ServiceHost], mesh_hosts: HostFactory
) -> None:
    store, host = store_host
    heard: list[int] = []

    def hear(tenant: str, run_id: str, fence: int) -> None:
        heard.append(fence)
        if fence == 2:
            raise ValueError("a defect")

    channel = mesh_hosts.channels().channel(host.grpc_address, "conversation_store")
    turns = turn_service_pb2_grpc.TurnServiceStub(channel)
    watching = asyncio.create_task(watch_fences(turns, "runner_1", hear, lambda *_: None))
    store.raise_fence(RUN, TENANT)
    store.raise_fence(RUN, TENANT)
    await until(lambda: heard == [2, 3] or watching.done(), "heard")
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert heard == [2, 3]
