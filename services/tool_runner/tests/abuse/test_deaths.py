"""The service or its launcher is killed with no warning, while hostile programs run."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from agentmesh_tool_runner.sandbox import cgroups

from ..processes import processes  # noqa: TID252 - the tests are one tree
from ..sandbox.conftest import WITHOUT_GROUPS  # noqa: TID252 - the tests are one tree
from .attacks.attack import Attack
from .conftest import ALL, Verdict
from .test_network import ROOT

STAGE = __name__.rpartition(".")[0] + ".death_stage"
LOCAL = [name for name in ALL if not name.startswith("docker")]
SHOWN = "a daemon of a killed program goes on: see the daemons"
KILLED = {
    victim: Attack(
        f"{victim}_killed",
        "lifecycle",
        lambda: "",
        means="launcher with the service, pid namespaces with the launcher",
    )
    for victim in ("service", "launcher")
}


def processes_with(token: str) -> list[int]:
    return processes(lambda words: token.encode() in words and b"-m" not in words)


def groups_of(service: int) -> list[Path]:
    return [
        folder
        for hierarchy in cgroups.discover()
        for folder in hierarchy.base.glob(f"agentmesh-{service}-*")
    ]


def mounts() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.split()[4].startswith("/mnt/workspace-")]


async def until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"still there: {what()}")


@pytest.mark.parametrize("victim", sorted(KILLED))
@pytest.mark.parametrize("name", LOCAL)
async def test_nothing_is_left(name: str, victim: str, tmp_path: Path, verdict: Verdict) -> None:
    kind, _, bound = name.partition(", ")
    if bound != WITHOUT_GROUPS and not cgroups.Parent(cgroups.discover()).controllers:
        pytest.skip(f"uid {os.geteuid()} can make no control group here")
    token = secrets.token_hex(8)
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", STAGE, kind, bound, str(tmp_path), token),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert service.stdout is not None
        launcher = int(await service.stdout.readline())
        assert processes_with(token)
        os.kill(service.pid if victim == "service" else launcher, signal.SIGKILL)
        await until(lambda: not processes_with(token), lambda: processes_with(token))
        if victim == "service":
            await until(lambda: not Path(f"/proc/{launcher}").exists(), lambda: launcher)
            await until(lambda: not groups_of(service.pid), lambda: groups_of(service.pid))
        assert mounts() == []
    finally:
        if service.returncode is None:
            service.kill()
        await service.wait()
    attack = KILLED[victim]
    verdict(name, attack, "contained", "no process, group or mount is left", SHOWN)
