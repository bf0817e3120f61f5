"""Sandboxes that are kept warm: programs share a start, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from agentmesh_tool_runner.sandbox.backend import Execution, Workspace
from agentmesh_tool_runner.sandbox.local import LocalBackend
from agentmesh_tool_runner.sandbox.model import (
    INPUT_DIRECTORY,
    EndReason,
    ExecutionSpec,
    Limits,
    ResourceUsage,
    WorkspaceKey,
)
from agentmesh_tool_runner.sandbox.resident_client import Resident

from ..processes import sleepers, sleepers_become  # noqa: TID252 - the tests are one tree
from ..results import Result  # noqa: TID252 - the tests are one tree
from .conftest import LIMITS, collect, make_local_backend

WHICH = "import os; print(os.readlink('/proc/self/ns/user'), open('/proc/1/cmdline').read())"


@pytest.fixture(params=["bubblewrap"])
async def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def warm(kind: str, tmp_path: Path) -> AsyncIterator[LocalBackend]:
    backend = make_local_backend(kind, tmp_path, warm_sandboxes=2)
    await backend.start()
    if not backend.uses_control_groups:
        await backend.close()
        pytest.skip("no control groups, and so no warm sandboxes")
    yield backend
    await backend.close()


async def session(backend: LocalBackend, name: str) -> Workspace:
    return await backend.workspace(WorkspaceKey("tenant", name))


def script(backend: LocalBackend, code: str, limits: Limits = LIMITS) -> ExecutionSpec:
    argv = [backend.python, f"{INPUT_DIRECTORY}/main.py"]
    return ExecutionSpec(argv, files={"main.py": code.encode()}, limits=limits)


async def run(
    backend: LocalBackend, workspace: Workspace, code: str, limits: Limits = LIMITS
) -> Result:
    return await collect(workspace, script(backend, code, limits))


async def first_line(execution: Execution) -> str:
    seen = b""
    async for piece in execution.output():
        seen += piece.data
        if b"\n" in seen:
            break
    return seen.decode()


async def test_each_session_has_a_sandbox_that_no_other_had(warm: LocalBackend) -> None:
    seen: dict[str, set[str]] = {}
    for name in ("a", "b", "c", "d"):
        workspace = await session(warm, name)
        for _ in range(3):
            namespace, first = (await run(warm, workspace, WHICH)).stdout.split(" ", 1)
            seen.setdefault(namespace, set()).add(name)
            if name == "a":
                assert "resident" in first
        await warm.delete_workspace(workspace.key)
    assert all(len(names) == 1 for names in seen.values())


async def test_the_pool_is_filled_again(warm: LocalBackend) -> None:
    for number in range(5):
        workspace = await session(warm, f"conv_{number}")
        for _ in range(500):
            if warm.warm_sandboxes:
                break
            await asyncio.sleep(0.01)
        assert "resident" in (await run(warm, workspace, WHICH)).stdout


async def test_nothing_of_a_program_outlives_it_but_its_files(warm: LocalBackend) -> None:
    workspace = await session(warm, "a")
    left = """
import os, sys
print(os.readlink("/proc/self/ns/user"))
for folder in ("/tmp", "/dev/shm", "/workspace"):
    open(f"{folder}/left", "w").write("x")
os.environ["LEFT"] = sys.modules["left"] = sys.left = os.left = "x"
sys.path.append("/left")
os.umask(0o777)
if os.fork() == 0:
    os.setsid()
    os.execv("/bin/sleep", ["sleep", "43210"])
"""
    found = """
import os, sys
print(os.readlink("/proc/self/ns/user"))
print([f for f in ("/tmp", "/dev/shm", "/workspace") if os.path.exists(f"{f}/left")])
print("LEFT" in os.environ, "left" in sys.modules, hasattr(sys, "left"), hasattr(os, "left"))
print("/left" in sys.path, os.umask(0), [p for p in os.listdir("/proc") if p.isdigit()][1:-1])
"""
    first = await run(warm, workspace, left)
    assert sleepers("43210") == []
    second = await run(warm, workspace, found)
    namespace, *lines = second.stdout.splitlines()
    assert first.stdout.splitlines()[0] == namespace
    assert lines == ["['/workspace']", "False False False False", "False 18 []"]


async def test_no_program_reaches_the_resident(warm: LocalBackend) -> None:
    """Not by a signal, not by its files, not by a descriptor; and so it can tell no false end."""
    workspace = await session(warm, "a")
    code = """
import os, signal, sys
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError as error:
        print("kill", number, error)
reached = []
for name in ("mem", "environ", "maps", "fd/0", "fd/3", "root", "cwd", "exe", "ns/pid"):
    try:
        os.close(os.open(f"/proc/1/{name}", os.O_RDONLY))
        reached.append(name)
    except OSError:
        pass
for name in ("oom_score_adj", "comm", "coredump_filter", "timerslack_ns"):
    try:
        os.write(os.open(f"/proc/1/{name}", os.O_WRONLY), b"1")
        reached.append(name)
    except OSError:
        pass
for number in range(1024):
    for forged in (b'{"code": 0}', b'{"ready": 1}', b"run"):
        try:
            if number not in (1, 2) and os.write(number, forged):
                reached.append(number)
        except OSError:
            pass
print(reached)
sys.exit(7)
"""
    ended = await run(warm, workspace, code)
    assert ended.stdout == "[]\n"
    assert ended.outcome.exit_code == 7
    after = await run(warm, workspace, WHICH)
    assert "resident" in after.stdout


TAMPERING = [
    "resource.prlimit(1, resource.RLIMIT_NOFILE, (8, 8))",
    "os.setpriority(os.PRIO_PROCESS, 1, 19)",
    "os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))",
    "os.sched_setaffinity(1, [min(os.sched_getaffinity(0))])",
]


async def test_a_resident_that_was_tampered_with_runs_nothing_more(warm: LocalBackend) -> None:
    workspace = await session(warm, "a")
    before = (await run(warm, workspace, WHICH)).stdout
    tries = [f"with contextlib.suppress(PermissionError): {each}" for each in TAMPERING]
    code = "import contextlib, os, resource\n" + "\n".join(tries)
    ended = await run(warm, workspace, code)
    assert ended.outcome.succeeded, ended.stderr
    look = (
        "import os, resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], "
        "os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))\n" + WHICH
    )
    after = (await run(warm, workspace, look)).stdout.split("\n", 1)
    assert after[0] == f"{LIMITS.open_files} 0 0"
    assert after[1] != before


async def test_cancel_ends_the_execution_with_its_daemons_and_not_the_session(
    warm: LocalBackend,
) -> None:
    workspace = await session(warm, "a")
    code = (
        "import os, time\nopen('kept', 'w').write('x')\n"
        "if os.fork() == 0:\n    os.setsid()\n    os.execv('/bin/sleep', ['sleep', '43211'])\n"
        "print('ready')\ntime.sleep(600)"
    )
    execution = await workspace.execute(script(warm, code))
    assert await first_line(execution) == "ready\n"
    execution.cancel()
    assert (await execution.outcome()).reason is EndReason.CANCELLED
    assert await asyncio.to_thread(sleepers_become, "43211", 0)
    assert (await run(warm, workspace, "print(open('kept').read())")).stdout == "x\n"


async def test_a_resident_imports_nothing_of_the_workspace(warm: LocalBackend) -> None:
    workspace = await session(warm, "a")
    hostile = b"import os\nif os.getpid() == 1: open('/workspace/imported', 'w').close()\n"
    for name in ("json", "socket", "resource", "sitecustomize", "usercustomize"):
        await workspace.write_file(f"{name}.py", hostile)
    execution = await workspace.execute(ExecutionSpec(["/bin/sleep", "600"], limits=LIMITS))
    execution.cancel()
    await execution.outcome()
    # Its resident is gone; the next one begins with these files there.
    for _ in range(200):
        first = await collect(workspace, ExecutionSpec(["/bin/cat", "/proc/1/cmdline"]))
        if "resident" in first.stdout:
            break
        await asyncio.sleep(0.02)
    assert "resident" in first.stdout
    assert {entry.path for entry in await workspace.list_files()}.isdisjoint({"imported"})


async def test_usage_is_that_of_the_execution_alone(warm: LocalBackend) -> None:
    workspace = await session(warm, "a")
    spin = "import time\nx = bytearray(60 << 20)\nwhile time.process_time() < 0.6: pass"
    first = (await run(warm, workspace, spin)).outcome.usage
    second = (await run(warm, workspace, WHICH)).outcome.usage
    assert first.cpu_seconds >= 0.6
    assert first.peak_memory_bytes > 60 << 20
    assert second.cpu_seconds < 0.5
    assert second.peak_memory_bytes < 40 << 20


async def test_limits_are_those_of_each_execution(warm: LocalBackend) -> None:
    workspace = await session(warm, "a")
    memory = "x = bytearray(150 << 20)"
    tight = replace(LIMITS, memory_bytes=100 << 20)
    reasons = [
        (await run(warm, workspace, memory, limits)).outcome.reason
        for limits in (LIMITS, tight, LIMITS)
    ]
    assert reasons == [EndReason.EXITED, EndReason.OUT_OF_MEMORY, EndReason.EXITED]
    spin = replace(LIMITS, cpu_seconds=0.2)
    ended = await run(warm, workspace, "while True: pass", spin)
    assert ended.outcome.reason is EndReason.CPU_TIMEOUT
    assert (await run(warm, workspace, "print(1)")).stdout == "1\n"


async def test_what_runs_beside_another_has_a_sandbox_of_its_own(warm: LocalBackend) -> None:
    workspace = await session(warm, "a")
    waiting = await workspace.execute(script(warm, WHICH + "\nimport time; time.sleep(600)"))
    mine = await first_line(waiting)
    other = (await run(warm, workspace, WHICH)).stdout
    assert other.split()[0] != mine.split()[0]
    waiting.cancel()
    assert (await waiting.outcome()).reason is EndReason.CANCELLED


PROGRAMS = [
    "import sys; print(sys.argv, sys.path, __name__, __file__, sys.flags); sys.exit(3)",
    "def f(): 1 / 0\ntry:\n    f()\nexcept Exception as e:\n    raise ValueError('x') from e",
    "print('not closed'",
    "raise SystemExit('a word')",
    "raise KeyboardInterrupt",
    "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "import atexit, threading, time\natexit.register(print, 'atexit')\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\nprint('main')",
    "class A:\n    def __del__(self): print('deleted')\na = A(); b = [a]; b.append(b)",
    "f = open('never closed', 'w'); f.write('text'); print(open('never closed').read() == '')",
    "import sys; sys.excepthook = lambda *a: print('hook', a[0]); raise ValueError",
    "import json; print(json.__file__); import agentmesh_tool_runner",
    "import os, pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))).__module__)\n"
    "print(sorted(os.environ), os.getcwd(), os.listdir('/run'), os.listdir('/tmp'))",
    "import multiprocessing as m\nif __name__ == '__main__':\n    with m.Pool(2) as pool:\n"
    "        print(pool.map(abs, [-1, -2]))",
    "import sys; print(sys.stdin.read(), sys.stdout.encoding, sys.stdout.isatty())",
    "import signal; print([s for s in signal.Signals if signal.getsignal(s) != signal.SIG_DFL])",
]


async def test_scripts_run_as_the_interpreter_runs_them(warm: LocalBackend) -> None:
    workspace = await session(warm, "a")
    await workspace.write_file("json.py", b"raise ImportError('the own one')\n")
    for code in PROGRAMS:
        forked = script(warm, code)
        started = replace(forked, argv=["/usr/bin/env", *forked.argv])
        ends = []
        for spec in (forked, started):
            ended = await collect(workspace, spec)
            ends.append((ended.stdout, ended.stderr, replace(ended.outcome, usage=ResourceUsage())))
        assert ends[0] == ends[1], code
        if "never closed" in code:
            assert await workspace.read_file("never closed") == b"text"


async def test_a_signal_reaches_the_first_program_of_a_resident(warm: LocalBackend) -> None:
    """Also where the resident was ready before the launcher told which process it is."""
    code = "import signal\nprint('on', flush=True)\nsignal.pause()"
    for name in ("a", "b"):
        workspace = await session(warm, name)
        execution = await workspace.execute(script(warm, code))
        assert await first_line(execution) == "on\n"
        execution.send_signal(15)
        assert (await execution.outcome()).signal == 15


async def test_temporary_files_of_a_program_are_not_counted_for_the_next(
    warm: LocalBackend,
) -> None:
    workspace = await session(warm, "a")
    fill = f"{WHICH}; open('/tmp/large', 'wb').write(bytes(6 << 20))"
    for _ in range(3):
        first = await run(warm, workspace, fill)
        second = await run(warm, workspace, WHICH)
        assert first.stdout == second.stdout, "one resident"
        peaks = [each.outcome.usage.peak_memory_bytes for each in (first, second)]
        assert peaks[1] < peaks[0] - (5 << 20)


async def test_the_next_program_waits_until_the_last_one_has_left_nothing(
    warm: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is told before, and that is no reason to run the next one elsewhere."""
    workspace = await session(warm, "a")
    until_clear, leave = Resident.until_clear, asyncio.Event()

    async def slowly(resident: Resident) -> None:
        await leave.wait()
        await until_clear(resident)

    monkeypatch.setattr(Resident, "until_clear", slowly)
    first = await run(warm, workspace, WHICH)
    second = asyncio.create_task(run(warm, workspace, WHICH))
    await asyncio.sleep(0.05)
    assert not second.done()
    leave.set()
    assert (await second).stdout == first.stdout
