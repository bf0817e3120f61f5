"""Every attack is first shown at work outside, and then stopped or contained by every backend."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio
from agentmesh_tool_runner.sandbox.model import WorkspaceKey

from .attacks.attack import ATTACKS
from .conftest import CANARY_VARIABLE, Stage, Verdict
from .stage import Answer, answers, inside, limits_of, of_family, outside, shown_outside

pytestmark = pytest.mark.asyncio(loop_scope="module")

TAMPERING = ["killing_the_supervisor", "writing_into_the_supervisor"]
PROBES = of_family("kernel", "secrets", "resources", alone=False) + TAMPERING
BOMBS = of_family("resources", alone=True)
LEFT = f"agentmesh-abuse-left-{os.getpid()}"


@functools.cache
def probes_outside() -> dict[str, Answer]:
    """All of them in one process, with a canary wherever one belongs."""
    if os.geteuid() != 0:
        return {}
    canary = "canary-outside"
    with tempfile.TemporaryDirectory() as name:
        file, left = Path(name) / "file", Path(tempfile.gettempdir()) / LEFT
        file.write_text(canary)
        left.write_text(canary)
        marked = os.open(file, os.O_RDONLY)
        settings = {
            "canary_as_hex": canary.encode().hex(),
            "marked": str(file),
            "service_pid": 1,
            "service_start": "",
            "data_folder": name,
            "left": [LEFT],
            "by_root": f"/proc/1/root{file}",
        }
        settings |= {key: str(file) for key in ("host_file", "data_file", "other_tenant_file")}
        try:
            told = outside(
                [canary, *PROBES],
                settings,
                environment={CANARY_VARIABLE: canary},
                descriptors=[marked],
                prepare=f"mount --bind {name} {name}",
            )
        finally:
            os.close(marked)
            left.unlink()
    return answers(told)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probed(stage: Stage) -> dict[str, Answer]:
    """The answers to all probes, from one execution."""
    other = await stage.backend.workspace(WorkspaceKey("another", "conv_secret"))
    await other.write_file("secret", stage.canary.encode())
    await other.save()
    [archive] = stage.folder.rglob("*.tar")
    settings = stage.settings | {
        "data_file": str(archive),
        "other_tenant_file": "/mnt/workspace-0/secret",
        "left": [LEFT],
    }
    workspace = await stage.workspace("conv_probes")
    await leave_behind(stage)
    ended = await inside(stage.backend, workspace, PROBES, settings)
    assert ended.outcome.succeeded, (ended.outcome, ended.stderr)
    return answers(ended.stdout)


async def leave_behind(stage: Stage) -> None:
    from agentmesh_tool_runner.sandbox.model import ExecutionSpec

    workspace = await stage.workspace("conv_probes")
    command = f"echo {stage.canary} | tee /tmp/{LEFT} > /dev/shm/{LEFT}"
    execution = await workspace.execute(ExecutionSpec(["/bin/sh", "-c", command]))
    assert (await execution.outcome()).succeeded


@pytest.mark.parametrize("name", PROBES)
async def test_is_stopped(
    stage: Stage, probed: dict[str, Answer], verdict: Verdict, name: str
) -> None:
    attack = ATTACKS[name]
    shown = shown_outside(attack, probes_outside().get(name))
    answer = probed[name]
    if answer.answer == "not here":
        assert "not shown" in shown or os.geteuid() != 0
        verdict(stage.name, attack, "stopped", "not here", shown)
        return
    assert answer.answer in attack.stopped_by, answer
    verdict(stage.name, attack, "stopped", answer.answer, shown)


@functools.cache
def bomb_outside(name: str) -> Answer | None:
    if os.geteuid() != 0 or ATTACKS[name].outside:
        return Answer("not run")
    return answers(outside(["alone", name], {}, scratch=True)).get(name)


@pytest.mark.parametrize("name", BOMBS)
async def test_is_contained(stage: Stage, verdict: Verdict, name: str) -> None:
    attack = ATTACKS[name]
    shown = shown_outside(attack, bomb_outside(name))
    key = WorkspaceKey("hostile", f"conv_{name}")
    workspace = await stage.backend.workspace(key)
    try:
        ended = await inside(
            stage.backend, workspace, ["alone", name], stage.settings, limits_of(attack)
        )
    finally:
        await stage.backend.delete_workspace(key)
    reason = ended.outcome.reason.name
    answer = answers(ended.stdout).get(name, Answer("silence")).answer
    assert reason in attack.contained_by or answer in attack.stopped_by, (
        ended.outcome,
        answer,
        ended.stderr[-2000:],
    )
    assert await stage.serves_others()
    if reason in attack.contained_by:
        verdict(stage.name, attack, "contained", reason, shown)
    else:
        verdict(stage.name, attack, "stopped", answer, shown)
