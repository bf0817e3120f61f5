"""Attacks by way of Execute over gRPC, while another tenant is served."""

from __future__ import annotations

import asyncio

import pytest
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb

from ..conftest import Mesh  # noqa: TID252 - the tests are one tree

CODE = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "memory": "x = []\nwhile True: x.append(bytearray(8 << 20))",
    "output": "while True: print('x' * 65536)",
    "disk": "n = 0\nwhile True:\n    open(str(n), 'wb').write(bytes(1 << 20))\n    n += 1",
    "sleeper": "import time\ntime.sleep(600)",
    "daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    while True: time.sleep(1)\n"
    ),
    "forged frames": (
        "import os\n"
        "for fd in range(1, 256):\n"
        "    try: os.write(fd, b'{\"exit-code\": 0}\\n')\n"
        "    except OSError: pass\n"
        "os._exit(77)"
    ),
}
REASONS = {
    "fork bomb": {"WALL_TIMEOUT", "PROCESS_LIMIT", "OUT_OF_MEMORY", "CPU_TIMEOUT"},
    "memory": {"OUT_OF_MEMORY"},
    "output": {"OUTPUT_LIMIT"},
    "disk": {"DISK_FULL", "OUT_OF_MEMORY"},
    "sleeper": {"WALL_TIMEOUT"},
    "daemon": {"EXITED"},
    "forged frames": {"EXITED"},
}
# These end by the clock.
SECONDS = {"fork bomb": 2, "sleeper": 2}


async def execute(mesh: Mesh, tenant: str, code: str, seconds: int) -> pb.ExecutionFinished:
    request = pb.ExecuteRequest(code=code, language=pb.EXECUTION_LANGUAGE_PYTHON)
    request.limits.wall_time.FromSeconds(seconds)
    request.limits.memory_bytes = 96 << 20
    stream = mesh.stub.Execute(request, metadata=mesh.user(tenant))
    return [each.item async for each in stream][-1].finished


async def test_every_attack_ends_and_another_tenant_is_served_meanwhile(mesh: Mesh) -> None:
    served = 0

    async def serve_another() -> None:
        nonlocal served
        while True:
            ended = await execute(mesh, "another", "print(6 * 7)", 60)
            assert ended.exit_code == 0, ended
            served += 1

    other = asyncio.create_task(serve_another())
    attacks = {
        name: execute(mesh, "hostile", code, SECONDS.get(name, 60)) for name, code in CODE.items()
    }
    ended = dict(zip(attacks, await asyncio.gather(*attacks.values()), strict=True))
    async with asyncio.timeout(60):
        while not served and not other.done():
            await asyncio.sleep(0.01)
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    told = {
        name: pb.ExecutionEndReason.Name(end.reason).removeprefix("EXECUTION_END_REASON_")
        for name, end in ended.items()
    }
    assert {name for name in told if told[name] not in REASONS[name]} == set(), told
    assert ended["forged frames"].exit_code == 77
    assert served
