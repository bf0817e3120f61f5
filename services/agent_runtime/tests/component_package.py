"""A distribution with components, as an installer leaves it, of sources that a test writes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    entry_points: Mapping[str, Mapping[str, str]],
    name: str = "choosers",
) -> None:
    """`entry_points` are functions or classes of `source` by group and name."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = []
    for group, named in entry_points.items():
        lines.append(f"[{group}]")
        lines += [f"{entry} = {module}:{value}" for entry, value in named.items()]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    if str(folder) not in sys.path:
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, module, raising=False)
