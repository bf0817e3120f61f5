"""Every reason of the contract, each brought about by a program that really ends so."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.sandbox.local import LocalBackend
from google.protobuf.duration_pb2 import Duration

from .conftest import Mesh, until
from .processes import processes

MIB = 1024 * 1024
PROGRAMS: dict[str, dict[str, Any]] = {
    "EXITED": {"code": "raise SystemExit(4)"},
    "SIGNALED": {"code": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"},
    "WALL_TIMEOUT": {
        "code": "import time; time.sleep(600)",
        "limits": pb.ExecutionLimits(wall_time=Duration(nanos=400_000_000)),
    },
    "CPU_TIMEOUT": {
        "code": "import os\nos.fork()\nwhile True: pass",
        "limits": pb.ExecutionLimits(cpu_time=Duration(nanos=400_000_000)),
    },
    "OUT_OF_MEMORY": {
        "code": "held = []\nwhile True: held.append(bytearray(1 << 22))",
        "limits": pb.ExecutionLimits(memory_bytes=64 * MIB),
    },
    "PROCESS_LIMIT": {
        "code": "import os, time\nfor _ in range(99):\n    if not os.fork(): time.sleep(9)",
        "limits": pb.ExecutionLimits(processes=16),
    },
    "DISK_FULL": {
        "code": "file = open('file', 'wb')\nwhile True: file.write(bytes(1 << 20))",
    },
    "OUTPUT_LIMIT": {
        "code": "while True: print('x' * 1000)",
        "limits": pb.ExecutionLimits(output_bytes=5000),
    },
    "COMPILE_ERROR": {"language": pb.EXECUTION_LANGUAGE_C, "code": "int main() { return x; }"},
}


async def test_every_reason_that_programs_bring_about(mesh: Mesh) -> None:
    ends = await asyncio.gather(*(mesh.execute(**fields) for fields in PROGRAMS.values()))
    finished = {name: items[-1].finished for name, items in zip(PROGRAMS, ends, strict=True)}
    reasons = {
        name: pb.ExecutionEndReason.Name(end.reason).removeprefix("EXECUTION_END_REASON_")
        for name, end in finished.items()
    }
    assert reasons == {name: name for name in PROGRAMS}
    assert finished["EXITED"].exit_code == 4
    assert not finished["EXITED"].HasField("signal")
    assert finished["SIGNALED"].signal == signal.SIGSEGV
    assert not finished["SIGNALED"].HasField("exit_code")
    assert finished["COMPILE_ERROR"].exit_code == 1
    usage = {name: end.usage for name, end in finished.items()}
    assert all(each.wall_time.ToNanoseconds() > 0 for each in usage.values())
    assert usage["CPU_TIMEOUT"].cpu_time.ToMilliseconds() >= 390
    assert usage["WALL_TIMEOUT"].wall_time.ToMilliseconds() >= 400
    assert 32 * MIB < usage["OUT_OF_MEMORY"].peak_memory_bytes <= 66 * MIB
    assert usage["OUTPUT_LIMIT"].output_bytes >= 5000


async def test_the_sandbox_is_lost(mesh: Mesh) -> None:
    """Its parent is killed from outside: nothing is said of the program, and the next one runs."""
    stream: Any = mesh.stub.Execute(
        pb.ExecuteRequest(
            language=pb.EXECUTION_LANGUAGE_SHELL, code="echo go; sleep 600", detached=True
        ),
        metadata=mesh.user(),
    )
    while not (await stream.read()).item.output.data:
        pass
    backend = mesh.runner.sandboxes.backend
    assert isinstance(backend, LocalBackend)
    assert backend.launcher_pid is not None
    os.kill(backend.launcher_pid, signal.SIGKILL)
    last = await stream.read()
    assert last.item.finished.reason == pb.EXECUTION_END_REASON_SANDBOX_LOST
    assert (await mesh.execute("print('again')"))[-1].finished.exit_code == 0


FAMILY = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
for generation in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            sleeps = "import time; time.sleep(987)"
            os.execv(sys.executable, [sys.executable, "-c", sleeps, {mark!r}])
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("way", ["deadline", "cancel", "wall_time", "kill"])
async def test_every_process_is_reached(mesh: Mesh, way: str) -> None:
    """Grandchildren in sessions of their own, that ignore what can be ignored."""
    mark = f"family-{os.getpid()}-{way}"
    request = pb.ExecuteRequest(
        execution_id=mark, language=pb.EXECUTION_LANGUAGE_PYTHON, code=FAMILY.format(mark=mark)
    )
    if way == "wall_time":
        request.limits.wall_time.FromSeconds(2)
    timeout = 2 if way == "deadline" else None
    stream: Any = mesh.stub.Execute(request, metadata=mesh.user(), timeout=timeout)
    while b"ready" not in (await stream.read()).item.output.data:
        pass
    await until(lambda: len(_processes(mark)) >= 3, "the family is complete")
    if way == "cancel":
        stream.cancel()
    if way == "kill":
        wanted = pb.SignalExecutionRequest(execution_id=mark, signal=9)
        await mesh.stub.SignalExecution(wanted, metadata=mesh.user())
    await until(lambda: not _processes(mark), "every process is dead")
    attach = pb.AttachRequest(execution_id=mark)
    items = [i.item async for i in mesh.stub.Attach(attach, metadata=mesh.user())]
    wanted_reason = "WALL_TIMEOUT" if way == "wall_time" else "CANCELLED"
    reason = pb.ExecutionEndReason.Name(items[-1].finished.reason)
    assert reason == f"EXECUTION_END_REASON_{wanted_reason}"


def _processes(mark: str) -> list[int]:
    """Of the host, those that have the mark as their last argument."""
    return processes(lambda words: len(words) > 2 and words[-2] == mark.encode())
