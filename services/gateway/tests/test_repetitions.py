"""Requests that are repeated after a failure of which nobody knows how far it let them come."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from agentmesh.common.v1 import errors_pb2
from agentmesh.gateway.v1 import tool_service_pb2 as tool_pb2
from agentmesh.gateway.v1.tool_service_pb2_grpc import ToolServiceStub
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as runner_pb2
from agentmesh.tool_runner.v1.tool_runner_service_pb2_grpc import ToolRunnerServiceStub
from agentmesh_gateway.idempotency import claims
from agentmesh_gateway.idempotency.outcomes import nothing_done
from meshkit.errors import MeshError
from meshkit.testkit import HostFactory, MeshProcess, raises_rich

from .conftest import NOWHERE, Gateways
from .failing_runner import FailingRunner, broken_off, start_failing_runner
from .front import Front, reason, stand_before

BODY = b"the bytes"
FILE = {"content-type": "application/octet-stream"}


@dataclass
class Workspace:
    """A conversation's files at a failing runner, behind a gateway."""

    front: Front
    runner: FailingRunner
    runner_address: str
    conversation: str

    def path(self, name: str) -> str:
        return f"/conversations/{self.conversation}/artifacts/{name}"

    async def upload(
        self, request_id: str, body: bytes = BODY, **conditions: str
    ) -> httpx.Response:
        return await self.front.http.put(
            self.path("a.txt"),
            content=body,
            params=conditions,
            headers=FILE | {"idempotency-key": request_id},
        )

    async def delete(self, request_id: str) -> httpx.Response:
        headers = {"idempotency-key": request_id}
        return await self.front.http.delete(self.path("a.txt"), headers=headers)

    async def restore(self, version: str, request_id: str) -> httpx.Response:
        path = f"/conversations/{self.conversation}/artifact-versions/{version}/restore"
        return await self.front.http.post(path, headers={"idempotency-key": request_id})

    async def execute(self, request_id: str) -> list[Any]:
        request = tool_pb2.ExecuteCodeRequest(
            language=runner_pb2.EXECUTION_LANGUAGE_PYTHON, code="1", request_id=request_id
        )
        call: Any = ToolServiceStub(self.front.gateway.channel).ExecuteCode(request)
        return [response async for response in call]

    def held_until(self) -> int:
        """When the newest claim ends by itself."""
        with contextlib.closing(sqlite3.connect(_database(self.front), timeout=30)) as database:
            found = database.execute("SELECT max(held_until) FROM requests").fetchone()
            return int(found[0])

    def forget_who_holds_what(self) -> None:
        """As after the seconds that the claim of a replica that died is held."""
        with contextlib.closing(sqlite3.connect(_database(self.front), timeout=30)) as database:
            database.execute("UPDATE requests SET held_until = 0 WHERE claim_id <> ''")
            database.commit()


def _database(front: Front) -> Path:
    (file,) = Path(front.store.environment["AGENTMESH_DATA_DIR"]).glob("*.sqlite3")
    return file


@pytest_asyncio.fixture
async def workspace(
    shared_store: MeshProcess, gateways: Gateways, mesh_hosts: HostFactory
) -> AsyncIterator[Workspace]:
    runner = FailingRunner()
    host = await start_failing_runner(mesh_hosts, runner)
    front = await stand_before(
        shared_store, gateways, mesh_hosts, tool_runner_address=host.grpc_address
    )
    conversation = (await front.started())["conversation_id"]
    yield Workspace(front, runner, host.grpc_address, conversation)
    runner.go_on.set()


@pytest.mark.parametrize("condition", ["must_not_exist", "etag"])
async def test_a_conditional_upload_knows_its_own_file_again(
    workspace: Workspace, condition: str
) -> None:
    runner, request_id = workspace.runner, f"own-{condition}"
    conditions: dict[str, Any] = {"must_not_exist": "true"}
    if condition == "etag":
        runner.put("a.txt", b"before")
        conditions = {"etag": "1"}
    runner.after = broken_off()
    assert (await workspace.upload(request_id, **conditions)).status_code == 503
    made = runner.changes
    again = await workspace.upload(request_id, **conditions)
    assert again.status_code == 200, again.text
    assert again.json()["artifact"]["etag"] == str(made)
    assert (await workspace.upload(request_id, **conditions)).json() == again.json()
    assert runner.changes == made


async def test_a_file_that_is_not_its_own_is_neither_overwritten_nor_claimed(
    workspace: Workspace,
) -> None:
    runner = workspace.runner
    runner.after = broken_off()
    await workspace.upload("foreign", must_not_exist="true")
    runner.put("a.txt", b"somebody else's")
    for _ in range(2):
        again = await workspace.upload("foreign", must_not_exist="true")
        assert (again.status_code, reason(again)) == (409, "OUTCOME_UNKNOWN")
        assert again.json()["error"]["details"][0]["metadata"] == {"request_id": "foreign"}
    assert runner.files["a.txt"][1] == b"somebody else's"
    refused = await workspace.upload("another id", must_not_exist="true")
    assert reason(refused) == "ALREADY_EXISTS"


async def test_an_upload_that_was_refused_used_nothing_up(workspace: Workspace) -> None:
    workspace.runner.put("a.txt", b"in the way")
    for _ in range(2):
        refused = await workspace.upload("refused", must_not_exist="true")
        assert reason(refused) == "ALREADY_EXISTS"
    del workspace.runner.files["a.txt"]
    assert (await workspace.upload("refused", must_not_exist="true")).status_code == 200


async def test_only_what_was_there_at_first_is_removed(workspace: Workspace) -> None:
    runner = workspace.runner
    runner.put("a.txt", b"first")
    runner.before = broken_off()
    assert (await workspace.delete("kept")).status_code == 503
    assert (await workspace.delete("kept")).json() == {"removed": True}, "it is the same file still"
    runner.put("a.txt", b"second")
    assert (await workspace.delete("kept")).json() == {"removed": True}
    assert "a.txt" in runner.files, "an answer is an answer"

    runner.after = broken_off()
    assert (await workspace.delete("gone")).status_code == 503
    assert (await workspace.delete("gone")).json() == {"removed": True}

    runner.put("a.txt", b"third")
    runner.after = broken_off()
    assert (await workspace.delete("made anew")).status_code == 503
    runner.put("a.txt", b"somebody else's")
    for _ in range(2):
        assert reason(await workspace.delete("made anew")) == "OUTCOME_UNKNOWN"
    assert "a.txt" in runner.files
    del runner.files["a.txt"]
    assert (await workspace.delete("nothing there")).json() == {"removed": False}


def versioned(runner: FailingRunner, now: bytes | None = b"two") -> str:
    """A version of a.txt, and what is there now."""
    runner.put("a.txt", b"one")
    version = runner.keep("a.txt")
    if now is None:
        runner.remove("a.txt")
    else:
        runner.put("a.txt", now)
    return version


@pytest.mark.parametrize("now", [b"two", None], ids=["over a file", "where nothing is"])
async def test_a_restored_version_is_known_again(workspace: Workspace, now: bytes | None) -> None:
    runner = workspace.runner
    version = versioned(runner, now)
    runner.after = broken_off()
    assert (await workspace.restore(version, f"known {now!r}")).status_code == 503
    made, kept = runner.changes, len(runner.versions)
    again = await workspace.restore(version, f"known {now!r}")
    assert again.json()["artifact"]["etag"] == str(made)
    assert (await workspace.restore(version, f"known {now!r}")).json() == again.json()
    assert (runner.changes, len(runner.versions)) == (made, kept)


@pytest.mark.parametrize("now", [b"two", None], ids=["over a file", "where nothing is"])
async def test_a_version_is_restored_by_the_repetition_if_it_was_not(
    workspace: Workspace, now: bytes | None
) -> None:
    runner = workspace.runner
    version = versioned(runner, now)
    runner.before = broken_off()
    assert (await workspace.restore(version, f"late {now!r}")).status_code == 503
    assert (await workspace.restore(version, f"late {now!r}")).status_code == 200
    assert runner.files["a.txt"][1] == b"one"


@pytest.mark.parametrize("now", [b"two", None], ids=["over a file", "where nothing is"])
async def test_what_came_after_a_restored_version_stays(
    workspace: Workspace, now: bytes | None
) -> None:
    runner = workspace.runner
    for done, later in ((True, b"three"), (False, b"three"), (True, None)):
        request_id = f"after {now!r} {done} {later!r}"
        version = versioned(runner, now)
        if done:
            runner.after = broken_off()
        else:
            runner.before = broken_off()
        assert (await workspace.restore(version, request_id)).status_code == 503
        if later is None:
            runner.remove("a.txt")
        else:
            runner.put("a.txt", later)
        for _ in range(2):
            answer = await workspace.restore(version, request_id)
            assert (answer.status_code, reason(answer)) == (409, "OUTCOME_UNKNOWN"), request_id
        assert runner.files.get("a.txt", (0, None))[1] == later


async def test_a_version_that_is_gone_is_not_said_to_have_been_missing(
    workspace: Workspace,
) -> None:
    runner = workspace.runner
    version = versioned(runner)
    runner.after = broken_off()
    assert (await workspace.restore(version, "gone")).status_code == 503
    runner.versions.clear()
    assert reason(await workspace.restore(version, "gone")) == "OUTCOME_UNKNOWN"
    for _ in range(2):
        assert reason(await workspace.restore("v7", "never there")) == "NOT_FOUND"


async def test_code_that_may_have_run_is_never_run_again(workspace: Workspace) -> None:
    """And whoever repeats it hears so at once."""
    runner = workspace.runner
    runner.after = broken_off()
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING"):
        await workspace.execute("in the middle")
    for _ in range(2):
        with raises_rich(grpc.StatusCode.ABORTED, "OUTCOME_UNKNOWN"):
            await workspace.execute("in the middle")
    assert runner.runs == 1
    runner.before = MeshError.precondition(
        errors_pb2.ERROR_REASON_SANDBOX_UNAVAILABLE, "no sandbox"
    )
    with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "SANDBOX_UNAVAILABLE"):
        await workspace.execute("refused")
    assert await workspace.execute("refused") == await workspace.execute("refused")
    assert runner.runs == 2


async def test_a_caller_who_leaves_code_alone_is_told_that_nobody_knows(
    workspace: Workspace,
) -> None:
    workspace.runner.go_on.clear()
    left = asyncio.create_task(workspace.execute("left"))
    await workspace.runner.done.wait()
    left.cancel()
    with raises_rich(grpc.StatusCode.ABORTED, "OUTCOME_UNKNOWN"):
        await workspace.execute("left")
    assert workspace.runner.runs == 1


async def test_a_claim_is_held_as_long_as_the_work_lasts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "HOLD_SECONDS", 1)  # renewed three times as often
    workspace.runner.go_on.clear()
    asked = asyncio.create_task(workspace.execute("long"))
    await workspace.runner.done.wait()
    begun = workspace.held_until()
    async with asyncio.timeout(60):
        while workspace.held_until() == begun:
            await asyncio.sleep(0.05)
    workspace.runner.go_on.set()
    assert await workspace.execute("long") == await asked


async def test_a_gateway_is_killed_between_the_deed_and_its_answer(
    workspace: Workspace, tmp_path: Path
) -> None:
    runner, front = workspace.runner, workspace.front
    environment = {
        "APP_PORT": "0",
        "AGENTMESH_STORE_ADDRESS": front.store.grpc_address,
        "AGENTMESH_TOOL_RUNNER_ADDRESS": workspace.runner_address,
    }
    killed = MeshProcess([sys.executable, "-m", "agentmesh_gateway"], tmp_path / "k", environment)
    async with killed, httpx.AsyncClient(base_url=killed.http_address, timeout=30) as http:
        runner.go_on.clear()
        headers = FILE | {"idempotency-key": "killed"}
        condition = {"must_not_exist": "true"}
        asked = asyncio.create_task(
            http.put(workspace.path("a.txt"), content=BODY, params=condition, headers=headers)
        )
        await runner.done.wait()
        waiting = asyncio.create_task(workspace.upload("killed", must_not_exist="true"))
        await killed.sigkill()
        with pytest.raises(httpx.TransportError):
            await asked
    runner.go_on.set()
    workspace.forget_who_holds_what()
    answer = await waiting
    assert answer.status_code == 200, answer.text
    assert runner.changes == 1


async def test_answers_outlast_the_conversation(workspace: Workspace) -> None:
    first = await workspace.upload("outlasts")
    path = f"/conversations/{workspace.conversation}"
    assert (await workspace.front.http.delete(path)).status_code == 200
    assert (await workspace.upload("outlasts")).json() == first.json()
    assert reason(await workspace.upload("new")) == "NOT_FOUND"


async def test_calls_that_found_nobody_have_done_nothing(mesh_hosts: HostFactory) -> None:
    channel = mesh_hosts.channels("gateway").channel(NOWHERE, "tool_runner")
    stub: Any = ToolRunnerServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as never_sent:
        await stub.RemoveFile(runner_pb2.RemoveFileRequest())
    assert nothing_done(never_sent.value)
    for failure in (
        broken_off(),
        MeshError.precondition(errors_pb2.ERROR_REASON_WORKSPACE_MOVED, "late"),
        MeshError.unavailable("tool_runner"),
        MeshError.internal("x"),
        asyncio.CancelledError(),
        grpc.aio.AioRpcError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), grpc.aio.Metadata()
        ),
    ):
        assert not nothing_done(failure), failure
