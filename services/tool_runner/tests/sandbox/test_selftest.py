"""The proof that a sandbox isolates, and that a sandbox which does not is never used."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agentmesh_tool_runner.sandbox import sandlock, selftest
from agentmesh_tool_runner.sandbox.bubblewrap import BubblewrapBackend, BubblewrapOptions
from agentmesh_tool_runner.sandbox.inside import Launch
from agentmesh_tool_runner.sandbox.local import LocalBackend
from agentmesh_tool_runner.sandbox.model import SandboxUnavailableError

from .conftest import make_backend, make_local_backend


async def test_every_property_is_proved(backend: LocalBackend) -> None:
    report = await selftest.run(backend)
    assert report.remedy == ""
    assert report.passed
    assert [each.name for each in report.capabilities] == list(selftest.PROPERTIES)
    assert all(each.enforced and each.detail for each in report.capabilities)


WEAKER = [("network", "network"), ("seccomp", "system_calls"), ("pid", "isolation")]
OPTIONS = {"network": b"--unshare-net", "seccomp": b"--seccomp", "pid": b"--unshare-pid"}
ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)


def without(launch: Launch, lock: str) -> Launch:
    """The same sandbox with one lock less."""
    if launch.enclosure is None:
        words = launch.contents[0].split(b"\0")
        at = words.index(OPTIONS[lock])
        del words[at : at + (2 if lock == "seccomp" else 1)]
        return replace(launch, contents=[b"\0".join(words), *launch.contents[1:]])
    if lock == "seccomp":
        return replace(launch, contents=[ALLOW_ALL, *launch.contents[1:]])
    if lock == "landlock":
        return replace(launch, enclosure=dict(launch.enclosure) | {"writable": ["/"]})
    left = [name for name in launch.enclosure["namespaces"] if name != lock]
    return replace(launch, enclosure=dict(launch.enclosure) | {"namespaces": left})


async def report_without(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, lock: str
) -> selftest.Report:
    compose = backend._compose

    def weaker(*arguments: Any, **named: Any) -> Launch:
        return without(compose(*arguments, **named), lock)

    monkeypatch.setattr(backend, "_compose", weaker)
    return await selftest.run(backend)


@pytest.mark.parametrize(("lock", "broken"), WEAKER)
async def test_a_weaker_sandbox_fails(
    local_backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, lock: str, broken: str
) -> None:
    report = await report_without(local_backend, monkeypatch, lock)
    assert not report.passed
    if (local_backend.name, lock) == ("sandlock", "pid"):
        # The kernel gives no /proc without a pid namespace, so nothing runs that could be judged.
        broken = "mount /newroot/proc: Operation not permitted"
    assert broken in report.remedy
    assert "\n" not in report.remedy


@pytest.mark.parametrize(("lock", "broken"), WEAKER[:2])
@pytest.mark.parametrize("kind", ["bubblewrap"])
async def test_a_weaker_resident_fails(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str, broken: str
) -> None:
    backend = make_local_backend(kind, tmp_path, warm_sandboxes=1)
    compose = backend._compose_resident

    def weaker(workspace: str) -> Launch | None:
        launch = compose(workspace)
        assert launch is not None
        if lock == "seccomp":
            return replace(launch, contents=[launch.contents[0], ALLOW_ALL, *launch.contents[2:]])
        return without(launch, lock)

    monkeypatch.setattr(backend, "_compose_resident", weaker)
    await backend.start()
    try:
        if not backend.uses_control_groups:
            pytest.skip(f"uid {os.geteuid()} can make no control group, and so has no residents")
        assert broken in (await selftest.run(backend)).remedy
    finally:
        await backend.close()


@pytest.mark.parametrize("kind", ["sandlock"])
async def test_nothing_runs_that_sandlock_did_not_lock(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = await report_without(backend, monkeypatch, "landlock")
    assert not report.passed
    assert "sandlock took nothing away" in report.remedy


async def test_missing_bubblewrap_says_what_to_install(tmp_path: Path) -> None:
    backend = BubblewrapBackend(BubblewrapOptions(tmp_path, bwrap="/nowhere/bwrap"))
    with pytest.raises(SandboxUnavailableError, match="install the package bubblewrap"):
        await backend.start()


async def test_a_kernel_without_landlock_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandlock, "landlock_version", lambda: -1)
    with pytest.raises(SandboxUnavailableError, match=r"Linux 6\.12"):
        await make_backend("sandlock", tmp_path).start()


async def test_missing_sandlock_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandlock, "landlock_version", lambda: 6)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SandboxUnavailableError, match="install the Python package sandlock"):
        await make_backend("sandlock", tmp_path).start()


async def test_unusable_python_says_what_to_run(local_kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "python"
    folder.mkdir()
    backend = make_backend(local_kind, tmp_path, python_folder=folder)
    await backend.start()
    try:
        report = await selftest.run(backend)
    finally:
        await backend.close()
    assert not report.passed
    assert "prepare_sandbox_python.py" in report.remedy
