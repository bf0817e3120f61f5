"""A service that is killed leaves no worker, and its successor nothing that a worker left."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from agentmesh_tool_runner.settings import ToolRunnerSettings
from agentmesh_tool_runner.tools.packages.provider import PackageTools

SERVICE = """
import asyncio, json, sys
from pathlib import Path
from agentmesh_tool_runner.sandbox.model import Limits
from agentmesh_tool_runner.settings import ToolRunnerSettings
from agentmesh_tool_runner.tools.packages.provider import PackageTools
from agentmesh_tool_runner.tools.tool import ToolContext

async def main(folder, marker):
    rules = ToolRunnerSettings(tool_packages="odd-tools").packages
    provider = PackageTools(rules, Path(folder))
    await provider.start()
    tools = {tool.spec.name: tool for tool in provider.tools()}
    context = ToolContext(None, "", Limits(), print, None)
    await tools["hang"].call(context, json.dumps({"how": "gil", "marker": marker}))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_nothing_outlives_a_service_that_is_killed(packages: Path, tmp_path: Path) -> None:
    marker, folder = f"{tmp_path}-orphan", tmp_path / "data"
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVICE, str(folder), marker)
    )
    parent = f'"parent": {service.pid}}}'
    await _until(lambda: len(_with(marker)) == 2 + 1)  # what the tool started, and the service
    assert len(_with(parent)) >= 1
    service.kill()
    await service.wait()
    await _until(lambda: not _with(parent))
    successor = PackageTools(ToolRunnerSettings(tool_packages="odd-tools").packages, folder)
    await successor.start()
    (scratch,) = folder.iterdir()
    assert scratch.name != f"workers-{service.pid}"
    await successor.close()
    assert _with(marker) == []
    assert list(folder.iterdir()) == []


def _with(text: str) -> list[str]:
    """The processes that have the text among their arguments."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(argument.endswith(text.encode()) for argument in arguments):
            found.append(file.parent.name)
    return found


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)
