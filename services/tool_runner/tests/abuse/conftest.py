"""The stage of the attacks, one per backend of this machine, and the table of how they ended."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agentmesh_tool_runner.sandbox.backend import Workspace
from agentmesh_tool_runner.sandbox.cgroups import process_start_time
from agentmesh_tool_runner.sandbox.local import LocalBackend
from agentmesh_tool_runner.sandbox.model import SandboxUnavailableError, WorkspaceKey

from ..sandbox.conftest import WITHOUT_GROUPS, AnyBackend, kinds, make_backend  # noqa: TID252 - the tests are one tree
from .attacks.attack import Attack
from .stage import PYTHON, inside

GROUPS = "control groups"
WARM = "warm"
# An engine's control groups are its own: there is no going without.
BOUNDS = {
    "bubblewrap": (GROUPS, WARM, WITHOUT_GROUPS),
    "sandlock": (GROUPS, WITHOUT_GROUPS),
    "docker": (GROUPS,),
}
ALL = [f"{kind}, {bound}" for kind in kinds() for bound in BOUNDS[kind]]
CANARY_VARIABLE = "AGENTMESH_INTERNAL_SECRET"

Verdict = Callable[..., None]


@dataclass
class Stage:
    """A backend with a hostile tenant, and what that one is told."""

    name: str
    backend: AnyBackend
    folder: Path
    settings: dict[str, Any]
    canary: str
    descriptor: int

    async def workspace(self, conversation: str, tenant: str = "hostile") -> Workspace:
        return await self.backend.workspace(WorkspaceKey(tenant, conversation))

    async def serves_others(self) -> bool:
        """The service still works, for another tenant."""
        ended = await inside(self.backend, await self.workspace("conv", "other"), ["served"], {})
        return ended.stdout == "served\n"


@pytest.fixture(scope="module", params=ALL)
def stage_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def options_of(bound: str) -> dict[str, Any]:
    """Of a backend with that bound on its programs."""
    return {"use_cgroups": bound != WITHOUT_GROUPS} | (
        {"warm_sandboxes": 2} if bound == WARM else {}
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(stage_name: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    kind, _, bound = stage_name.partition(", ")
    folder = tmp_path_factory.mktemp("abuse")
    backend = make_backend(kind, folder / "data", **options_of(bound))
    canary = "canary-" + secrets.token_hex(8)
    (folder / "host_file").write_text(canary)
    marked = os.open(folder / "marked", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(marked, True)
    os.environ[CANARY_VARIABLE] = canary
    talker = await asyncio.create_subprocess_exec(
        PYTHON, "-c", "import time; time.sleep(600)", canary, env={}
    )
    try:
        await backend.start()
    except SandboxUnavailableError as error:
        pytest.skip(str(error))
    groups = not isinstance(backend, LocalBackend) or backend.uses_control_groups
    if bound != WITHOUT_GROUPS and not groups:
        await backend.close()
        pytest.skip(f"uid {os.geteuid()} can make no control group here")
    settings = {
        "canary_as_hex": canary.encode().hex(),
        "groups": groups,
        "host_file": str(folder / "host_file"),
        "by_root": f"/proc/1/root{folder}/host_file",
        "data_folder": str(folder),
        "marked": str(folder / "marked"),
        "service_pid": os.getpid(),
        "service_start": process_start_time(),
    }
    yield Stage(stage_name, backend, folder, settings, canary, marked)
    await backend.close()
    talker.kill()
    await talker.wait()
    os.close(marked)
    del os.environ[CANARY_VARIABLE]


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Verdict:
    """Enters how an attack ended into the table."""

    def enter(stage: str, attack: Attack, how: str, by: str, shown: str) -> None:
        row = (attack.family, attack.name, stage, how, by, attack.means, shown)
        request.node.user_properties.append(("abuse", row))

    return enter


def _rows(reporter: Any) -> Iterator[tuple[str, ...]]:
    for report in reporter.getreports("passed"):
        for name, row in report.user_properties:
            if name == "abuse" and report.when == "call":
                yield row


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints the table where the attacks were asked for by name."""
    if not any("abuse" in argument for argument in config.args):
        return
    rows = sorted(_rows(terminalreporter))
    if not rows:
        return
    terminalreporter.section("attacks")
    titles = ("family", "case", "backend", "end", "by", "means", "outside")
    widths = [max(len(row[n]) for row in (*rows, titles)) for n in range(len(titles))]
    for row in (titles, *rows):
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())
    cases = {tuple(row[:2]) for row in rows}
    failed = terminalreporter.getreports("failed") + terminalreporter.getreports("error")
    terminalreporter.write_line(f"{len(cases)} cases, {len(rows)} attacks repelled")
    for report in failed:
        terminalreporter.write_line(f"GOT THROUGH or could not be judged: {report.nodeid}")
