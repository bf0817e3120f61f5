"""Programs that will not die, tamper with what watches over them, or leave traps behind."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from agentmesh_tool_runner.sandbox.backend import Workspace
from agentmesh_tool_runner.sandbox.beneath import UnsafePathError
from agentmesh_tool_runner.sandbox.model import EndReason, ExecutionSpec, Limits, WorkspaceKey

from ..sandbox.conftest import AnyBackend, collect, kinds, make_backend  # noqa: TID252
from .attacks.attack import ATTACKS
from .conftest import Stage, Verdict
from .stage import Answer, answers, inside, outside, program, shown_outside

pytestmark = pytest.mark.asyncio(loop_scope="module")

GROWS = "a=$(wc -c < alive); sleep 0.3; b=$(wc -c < alive); [ $b -gt $a ] && echo it grows"


@functools.cache
def daemon_outside(name: str) -> Answer:
    """Whether it goes on after its program has ended."""
    if os.geteuid() != 0:
        return Answer("not run")
    told = outside(["alone", name], {}, scratch=True, afterwards=GROWS)
    return Answer("through", "goes on") if "it grows" in told else Answer("it ends", told)


async def goes_on(workspace: Workspace) -> bool:
    before = await workspace.read_file("alive")
    await asyncio.sleep(0.2)
    return await workspace.read_file("alive") != before


@pytest.mark.parametrize("name", ["daemon_that_holds_the_output", "daemon_in_the_dark"])
async def test_no_daemon_outlives_its_program(stage: Stage, verdict: Verdict, name: str) -> None:
    shown = shown_outside(ATTACKS[name], daemon_outside(name))
    workspace = await stage.workspace(f"conv_{name}")
    ended = await inside(stage.backend, workspace, ["alone", name], stage.settings)
    assert ended.outcome.reason is EndReason.EXITED, ended
    assert answers(ended.stdout)[name].answer == "through"
    assert not await goes_on(workspace)
    verdict(stage.name, ATTACKS[name], "contained", "EXITED", shown)


async def until_it_lives(workspace: Workspace) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await workspace.read_file("alive")
            except FileNotFoundError:
                await asyncio.sleep(0.02)
            else:
                return


@pytest.mark.parametrize("name", ["program_that_ignores_signals", "program_that_is_stopped"])
async def test_cancelled_with_its_family(stage: Stage, verdict: Verdict, name: str) -> None:
    attack = ATTACKS[name]
    shown = shown_outside(attack, Answer("not run"))
    workspace = await stage.workspace(f"conv_{name}")
    execution = await workspace.execute(program(stage.backend, ["alone", name], stage.settings))
    await until_it_lives(workspace)
    execution.send_signal(15)
    execution.cancel()
    assert (await execution.outcome()).reason is EndReason.CANCELLED
    assert not await goes_on(workspace)
    limits = Limits(wall_seconds=0.7)
    ended = await inside(stage.backend, workspace, ["alone", name], stage.settings, limits)
    assert ended.outcome.reason is EndReason.WALL_TIMEOUT
    assert not await goes_on(workspace)
    verdict(stage.name, attack, "contained", "CANCELLED and WALL_TIMEOUT", shown)


async def test_frames_that_are_forged_are_nobodys(stage: Stage, verdict: Verdict) -> None:
    attack = ATTACKS["forged_frames"]
    shown = shown_outside(attack, Answer("not run"))
    workspace = await stage.workspace("conv_forged")
    for _ in range(2):
        ended = await inside(stage.backend, workspace, ["alone", attack.name], stage.settings)
        assert ended.outcome.reason is EndReason.EXITED, ended
        assert ended.outcome.exit_code == 77
    assert await stage.serves_others()
    verdict(stage.name, attack, "stopped", "exit code 77", shown)


MARKING = ["marks_on_the_supervisor", "poisoned_interpreter", "adopted_by_the_supervisor"]


async def test_the_next_program_is_as_the_first(stage: Stage, verdict: Verdict) -> None:
    workspace = await stage.workspace("conv_marks")
    looking = ["marks_of_the_last_program"]

    async def state() -> str:
        ended = await inside(stage.backend, workspace, looking, stage.settings)
        return answers(ended.stdout)[looking[0]].told

    await state()
    first = await state()
    for name in MARKING:
        ended = await inside(stage.backend, workspace, ["alone", name], stage.settings)
        assert answers(ended.stdout)[name].answer == "through", ended
        told = answers(ended.stdout)[name].told
        assert await state() == first, (name, told)
        assert not await workspace_lives_on(workspace)
        attack = ATTACKS[name]
        shown = shown_outside(attack, Answer("not run"))
        verdict(stage.name, attack, "contained", "no trace in the next program", shown)


async def workspace_lives_on(workspace: Workspace) -> bool:
    try:
        return await goes_on(workspace)
    except FileNotFoundError:
        return False


@pytest.fixture(params=kinds())
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(loop_scope="module")
async def backend(kind: str, tmp_path: Path) -> AsyncIterator[AnyBackend]:
    backend = make_backend(kind, tmp_path / "data")
    await backend.start()
    yield backend
    await backend.close()


LEFT = ["traps_for_the_service", "names_like_records", "names_that_are_no_text", "setuid_file"]
OTHERS = ("link", "up", "folder/root/etc/passwd", "magic", "loop", "pipe", "socket", "whiteout")


async def test_what_is_left_for_the_service_to_trip_over(
    backend: AnyBackend, kind: str, tmp_path: Path, verdict: Verdict
) -> None:
    host_file = tmp_path / "host_file"
    host_file.write_text("canary")
    key = WorkspaceKey("hostile", "conv_traps")
    workspace = await backend.workspace(key)
    settings = {"host_file": str(host_file)}
    ended = await inside(backend, workspace, LEFT, settings)
    assert {each.answer for each in answers(ended.stdout).values()} == {"through"}, ended.stdout
    before = {entry.path: entry.kind for entry in await workspace.list_files()}
    for name in OTHERS:
        with pytest.raises((UnsafePathError, OSError)):
            await workspace.read_file(name)
        with pytest.raises((UnsafePathError, OSError)):
            await workspace.write_file(name, b"overwritten")
    assert host_file.read_text() == "canary"
    await workspace.save()
    await backend.close()

    second = make_backend(kind, tmp_path / "data")
    await second.start()
    try:
        restored = await second.workspace(key)
        after = {entry.path: entry.kind for entry in await restored.list_files()}
        assert after == {path: what for path, what in before.items() if what != "other"}
        assert await restored.read_file("plain") == b"plain"
        seen = await collect(restored, ExecutionSpec(["/usr/bin/stat", "-c", "%a", "own"]))
        assert seen.stdout == "755\n"
    finally:
        await second.close()
    assert [folder for folder, _, names in os.walk(tmp_path) if "escaped" in str(names)] == []
    for name in LEFT:
        verdict(
            kind, ATTACKS[name], "stopped", "kept as it is, or not at all", ATTACKS[name].outside
        )


async def test_traps_are_removed_with_their_folder(backend: AnyBackend, tmp_path: Path) -> None:
    host_file = tmp_path / "host_file"
    host_file.write_text("canary")
    workspace = await backend.workspace(WorkspaceKey("hostile", "conv_remove"))
    command = (
        f"mkdir -p d/e/f; cd d; mkfifo pipe; ln -s {tmp_path} out; ln -s / root; chmod 0 e/f e ."
    )
    limits = replace(Limits(), wall_seconds=30)
    await collect(workspace, ExecutionSpec(["/bin/sh", "-c", command], limits=limits))
    await workspace.remove("d")
    assert await workspace.list_files() == []
    assert host_file.read_text() == "canary"
