"""A distribution with tools, as an installer leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(
    folder: Path, name: str, source: str, tools: Mapping[str, str], version: str = "1.2"
) -> None:
    """`tools` are objects of `source` by the names of their entry points."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{tool} = {module}:{value}" for tool, value in tools.items()]
    (info / "entry_points.txt").write_text("\n".join(["[agentmesh.tools]", *lines]) + "\n")
