"""A service that is killed leaves no worker, and its successor nothing that a worker left."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agentmesh_tool_runner.settings import ToolRunnerSettings
from agentmesh_tool_runner.tools.packages.provider import PackageTools

from services.tool_runner.tests.conftest import until
from services.tool_runner.tests.processes import processes

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
    # What the tool started, and the service.
    await until(lambda: len(_with(marker)) == 2 + 1, "the tool runs")
    assert len(_with(parent)) >= 1
    service.kill()
    await service.wait()
    await until(lambda: not _with(parent), "the worker is gone")
    successor = PackageTools(ToolRunnerSettings(tool_packages="odd-tools").packages, folder)
    await successor.start()
    (scratch,) = folder.iterdir()
    assert scratch.name != f"workers-{service.pid}"
    await successor.close()
    assert _with(marker) == []
    assert list(folder.iterdir()) == []


def _with(text: str) -> list[int]:
    """The processes that have the text at the end of an argument."""
    return processes(lambda words: any(word.endswith(text.encode()) for word in words))
