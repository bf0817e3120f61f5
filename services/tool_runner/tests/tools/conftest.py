"""Packages with tools, installed for the tests of a module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .package import install

ODD = Path(__file__).with_name("odd_tools.py").read_text("utf-8")
DECLARED = re.findall(r"^(?:async )?def ([a-z]\w*)\(", ODD, re.MULTILINE)

TAKEN = ("ask_human", "code_writer", "transfer_to_reviewer")
"""Names that mean something else."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path of modules: odd-tools, and one that cannot be imported."""
    folder = tmp_path_factory.mktemp("packages")
    offered = {name: name for name in DECLARED} | dict.fromkeys(TAKEN, "pid")
    install(folder, "odd-tools", ODD, offered)
    install(folder, "broken-tools", "raise SystemExit('not today')\n", {"broken": "broken"})
    install(folder, "dying-tools", "import os\nos._exit(9)\n", {"dying": "dying"})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        yield folder
