"""Files of a conversation on two runners that share nothing but a store."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from agentmesh.conversation.v1 import message_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh.tool_runner.v1 import tool_runner_service_pb2_grpc as pb_grpc
from meshkit.channels import MeshChannels
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory, MeshProcess

from .conftest import CONVERSATION, RUN, TENANT, Mesh, first_output, until
from .memory_store import MemoryStore

MAKE = """
import os, pathlib
root = pathlib.Path(".")
(root / "deep/er").mkdir(parents=True)
(root / "deep/er/text.txt").write_text("one\\n")
(root / "empty").mkdir(mode=0o700)
(root / "run.sh").write_text("#!/bin/sh\\necho ran\\n")
(root / "run.sh").chmod(0o4755)
(root / "link").symlink_to("deep/er/text.txt")
os.link("deep/er/text.txt", "hard")
(root / "large.bin").write_bytes(bytes(range(256)) * 8192)
(root / "caf\\u00e9 \\U0001f40d.txt").write_text("name")
open(b"odd-\\xff", "w").write("odd")
os.mkfifo("pipe")
"""
HOLES = "for n in range(5): open(f'hole{n}', 'w').truncate(100 << 20)"
SHOW = """
import hashlib, os, stat
for folder, folders, files in os.walk("."):
    folders.sort()
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        found = os.lstat(path)
        kind = stat.filemode(found.st_mode)
        what = ""
        if stat.S_ISLNK(found.st_mode):
            what = os.readlink(path)
        elif stat.S_ISREG(found.st_mode):
            what = hashlib.sha256(open(path, "rb").read()).hexdigest()[:8] + f" {found.st_nlink}"
        print(kind, ascii(path), what)
"""


def saved_archives(folder: Path) -> list[Path]:
    """Workspaces at rest on this machine."""
    return list(folder.rglob("*.tar"))


class OtherRunner(Mesh):
    """A runner that is a process of its own, at the same store."""

    def __init__(self, process: MeshProcess, near: Mesh, channels: MeshChannels) -> None:
        self.process = process
        self.runner = near.runner
        self.store = near.store
        channel = channels.channel(process.grpc_address, "tool_runner")
        self.stub = pb_grpc.ToolRunnerServiceStub(channel)


class Pair:
    """Two runners and their store."""

    def __init__(self, one: Mesh, two: OtherRunner) -> None:
        self.one = one
        self.two = two
        self.store = one.store
        self._calls = 0

    async def run(self, mesh: Mesh, code: str) -> message_pb2.ToolResultPart:
        """A recorded call that runs Python."""
        self._calls += 1
        call_id = f"call_{self._calls}"
        called = await mesh.call("code_executor", call_id, language="python", code=code)
        result = called.result
        assert result.outcome == message_pb2.TOOL_OUTCOME_OK, result.output
        return result

    @property
    def generation(self) -> int:
        """What the store says."""
        return self.store.files.of(CONVERSATION).now.generation


@pytest.fixture
async def pair(
    mesh: Mesh,
    mesh_hosts: HostFactory,
    store_host: tuple[MemoryStore, ServiceHost],
    tmp_path: Path,
) -> AsyncIterator[Pair]:
    process = MeshProcess(
        [sys.executable, "-m", "agentmesh_tool_runner"],
        tmp_path / "two",
        {
            "AGENTMESH_STORE_ADDRESS": store_host[1].grpc_address,
            "AGENTMESH_SANDBOX_FIRST_UID": "1879058192",
        },
    )
    await process.start()
    yield Pair(mesh, OtherRunner(process, mesh, mesh_hosts.channels()))
    await process.close()


def printed(result: message_pb2.ToolResultPart) -> str:
    """What the program wrote."""
    return result.output


async def test_the_next_call_elsewhere_sees_exactly_the_files(pair: Pair) -> None:
    await pair.run(pair.one, MAKE)
    assert pair.generation == 1
    here = printed(await pair.run(pair.one, SHOW))
    assert "odd-" in here
    assert "-rwsr-xr-x './run.sh'" in here
    there = printed(await pair.run(pair.two, SHOW))
    # What is kept has no setuid bit and no FIFO.
    expected = [
        line.replace("-rwsr-xr-x", "-rwxr-xr-x")
        for line in here.splitlines()
        if "'./pipe'" not in line
    ]
    assert there.splitlines() == expected
    assert pair.generation == 1, "looking changed nothing"


async def test_what_changed_there_is_brought_back_and_nothing_else_is_sent(pair: Pair) -> None:
    await pair.run(pair.one, MAKE)
    before = len(pair.store.files.uploads)
    change = "open('deep/er/text.txt', 'a').write('two\\n'); import os; os.remove('run.sh')"
    await pair.run(pair.two, change)
    sent = pair.store.files.uploads[before:]
    assert len(sent) == 1
    assert sent[0] < 4096
    downloads = pair.store.files.downloads
    seen = printed(await pair.run(pair.one, "import os; print(open('hard').read(), os.listdir())"))
    assert "two" in seen
    assert "run.sh" not in seen
    assert pair.store.files.downloads - downloads <= 2, "the manifest and the file that changed"


async def test_a_call_that_changed_nothing_costs_nothing(pair: Pair) -> None:
    await pair.run(pair.one, "open('a', 'w').write('x')")
    uploads, state = list(pair.store.files.uploads), pair.generation
    await pair.run(pair.one, "print(open('a').read())")
    await pair.run(pair.one, "open('a', 'w').write('x')")
    assert (pair.store.files.uploads, pair.generation) == (uploads, state)
    assert not pair.store.recorded[-1].HasField("workspace")


async def test_changes_of_two_runners_at_once_are_both_there(pair: Pair) -> None:
    await pair.run(pair.one, "open('base', 'w').write('0'); open('both', 'w').write('0')")
    await pair.run(pair.two, "print(open('base').read())")
    hold = pair.store.hold_record("call_late")
    late = asyncio.create_task(
        pair.two.call(
            "code_executor",
            "call_late",
            language="python",
            code="open('two', 'w').write('2'); open('both', 'w').write('late')",
        )
    )
    await hold.reached.wait()
    early = "open('one', 'w').write('1'); open('both', 'w').write('early')"
    await pair.run(pair.one, f"{early}; import os; os.remove('base')")
    hold.go_on.set()
    await late
    shown = "import os; print(sorted(os.listdir()), open('both').read())"
    for mesh in (pair.one, pair.two):
        assert "['both', 'one', 'two'] late" in printed(await pair.run(mesh, shown))


async def test_what_a_killed_call_wrote_is_no_part_of_the_files(pair: Pair) -> None:
    await pair.run(pair.one, "open('kept', 'w').write('1')")
    code = "open('half', 'w').write('x'); open('kept', 'w').write('2'); print('on', flush=True)\n"
    arguments = json.dumps({"language": "python", "code": code + "import time; time.sleep(600)"})
    stream = pair.one.start_call("code_executor", arguments, "call_killed")
    await first_output(stream)
    pair.store.raise_fence(RUN, TENANT)
    shown = printed(await pair.run(pair.one, "import os; print(os.listdir(), open('kept').read())"))
    assert "['kept'] 1" in shown
    stream.cancel()


async def test_a_lost_runner_takes_with_it_only_what_was_not_recorded(pair: Pair) -> None:
    await pair.run(pair.two, "open('log', 'a').write('once\\n')")
    hold = pair.store.hold_record("call_plan")
    plan = json.dumps({"goal": "ship", "tasks": [{"title": "t", "owner": "me"}]})
    lost = asyncio.create_task(pair.two.call_raw("task_planner", plan, "call_plan"))
    await hold.reached.wait()
    await pair.two.process.sigkill()
    with pytest.raises(grpc.aio.AioRpcError):
        await lost
    pair.store.fence += 1
    hold.go_on.set()
    show = "import os; print(sorted(os.listdir()), open('log').read())"
    assert "['log'] once" in printed(await pair.run(pair.one, show))
    again = await pair.one.call_raw("task_planner", plan, "call_plan")
    assert not again.replayed
    assert "['log', 'plan.json'] once" in printed(await pair.run(pair.one, show))


async def test_a_person_s_file_is_there_everywhere_and_survives_a_turn_given_up(
    pair: Pair,
) -> None:
    await pair.run(pair.one, "open('of_the_turn', 'w').write('1')")

    async def chunks() -> AsyncIterator[pb.WriteFileRequest]:
        yield pb.WriteFileRequest(conversation_id=CONVERSATION, path="data.csv", chunk=b"a,b\n")

    await pair.two.stub.WriteFile(chunks(), metadata=pair.two.user())
    assert "a,b" in printed(await pair.run(pair.one, "print(open('data.csv').read())"))
    # The store goes back to what was committed, with what people wrote since then.
    files = pair.store.files.of(CONVERSATION)
    assert files.kept != files.now.manifest_digest
    files.now.generation += 1
    files.now.manifest_digest = files.kept
    seen = printed(await pair.run(pair.one, "import os; print(os.listdir())"))
    assert "['data.csv']" in seen


async def test_who_hears_that_a_program_ended_finds_its_files(mesh: Mesh) -> None:
    files = mesh.store.files
    request = pb.ExecuteRequest(
        code="open('made', 'w').write('x')",
        language=pb.EXECUTION_LANGUAGE_PYTHON,
        conversation_id=CONVERSATION,
    )
    async for answer in mesh.stub.Execute(request, metadata=mesh.user()):
        if answer.item.HasField("finished"):
            assert files.of(CONVERSATION).now.generation == 1
    items = await mesh.execute(HOLES, conversation_id=CONVERSATION)
    assert items[-1].finished.reason == pb.EXECUTION_END_REASON_DISK_FULL
    assert "the workspace was not changed" in items[-1].finished.detail
    assert files.of(CONVERSATION).now.generation == 1


async def test_a_conversation_that_waits_has_nothing_open(mesh: Mesh) -> None:
    workspaces = mesh.runner.sandboxes.backend.workspaces
    await mesh.call("file_manager", "c1", action="write", path="a", content="x")
    assert workspaces.count == 1
    mesh.store.raised.put_nowait(
        turn_service_pb2.RaisedFence(
            run_id=RUN,
            current_fence=mesh.store.fence,
            tenant=TENANT,
            conversation_id=CONVERSATION,
            rests=True,
        )
    )
    await until(lambda: not workspaces.count, "the workspace is closed")
    assert not saved_archives(mesh.runner.settings.data_dir)
    read = await mesh.call("file_manager", "c2", action="read", path="a")
    assert "x" in read.result.output


async def test_a_claim_says_where_the_runner_is(pair: Pair) -> None:
    await pair.run(pair.two, "print(1)")
    assert pair.store.addresses == [pair.two.process.grpc_address]


async def test_files_beyond_the_bound_are_not_kept_and_the_model_is_told(pair: Pair) -> None:
    await pair.run(pair.one, "open('kept', 'w').write('1')")
    called = await pair.one.call("code_executor", "call_big", language="python", code=HOLES)
    assert called.result.outcome == message_pb2.TOOL_OUTCOME_ERROR
    assert "the workspace was not changed" in called.result.output
    assert pair.generation == 1
    assert "['kept']" in printed(await pair.run(pair.one, "import os; print(os.listdir())"))


async def test_many_small_changes_are_gathered_again(pair: Pair) -> None:
    for number in range(36):
        written = {"path": f"f{number}", "content": str(number)}
        await pair.one.call("file_manager", f"f{number}", action="write", **written)
    needed = pair.store.recorded[-1].workspace.manifest.blobs
    assert len(needed) < 8, "the store need not keep a blob of every call"
    show = "import os; print(len(os.listdir()), open('f7').read())"
    seen = printed(await pair.run(pair.two, show))
    assert "36 7" in seen
