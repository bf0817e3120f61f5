"""The proof that a sandbox isolates, and that a sandbox which does not is never used."""

from __future__ import annotations

from pathlib import Path

import pytest
from agentmesh_tool_runner.sandbox import profile, selftest
from agentmesh_tool_runner.sandbox.backend import SandboxUnavailableError
from agentmesh_tool_runner.sandbox.bubblewrap import BubblewrapBackend, BubblewrapOptions


async def test_every_property_is_proved(backend: BubblewrapBackend) -> None:
    report = await selftest.run(backend)
    assert report.remedy == ""
    assert report.passed
    assert [each.name for each in report.capabilities] == list(selftest.PROPERTIES)
    assert all(each.enforced and each.detail for each in report.capabilities)


@pytest.mark.parametrize(
    ("option", "broken"),
    [("--unshare-net", "network"), ("--seccomp", "system_calls"), ("--unshare-pid", "isolation")],
)
async def test_a_weaker_sandbox_fails(
    backend: BubblewrapBackend, monkeypatch: pytest.MonkeyPatch, option: str, broken: str
) -> None:
    """Takes one option out of what bwrap is told."""
    compose = profile.compose

    def weaker(*arguments: object, **named: object) -> profile.Launch:
        launch = compose(*arguments, **named)  # type: ignore[arg-type]  # passed through
        words = launch.contents[0].split(b"\0")
        at = words.index(option.encode())
        del words[at : at + (2 if option == "--seccomp" else 1)]
        return profile.Launch(launch.argv, [b"\0".join(words), *launch.contents[1:]])

    monkeypatch.setattr(profile, "compose", weaker)
    report = await selftest.run(backend)
    assert not report.passed
    assert broken in report.remedy
    assert "\n" not in report.remedy


async def test_missing_bubblewrap_says_what_to_install(tmp_path: Path) -> None:
    backend = BubblewrapBackend(BubblewrapOptions(tmp_path, bwrap="/nowhere/bwrap"))
    with pytest.raises(SandboxUnavailableError, match="install the package bubblewrap"):
        await backend.start()


async def test_unusable_python_says_what_to_run(tmp_path: Path) -> None:
    folder = tmp_path / "python"
    folder.mkdir()
    backend = BubblewrapBackend(BubblewrapOptions(tmp_path, python_folder=folder))
    await backend.start()
    try:
        report = await selftest.run(backend)
    finally:
        await backend.close()
    assert not report.passed
    assert "prepare_sandbox_python.py" in report.remedy
