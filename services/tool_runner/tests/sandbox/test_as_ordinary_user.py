"""The same abuse as an ordinary user: this file runs the others again, without root's rights.

A checkout and its virtual environment may lie where other users cannot go, so what is needed is
copied to a folder that they can read, and run by an interpreter that they can execute.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import agentmesh_tool_runner
import meshkit
import pytest

UID = 54_321
NEEDED = (
    "pytest",
    "pytest-asyncio",
    "pluggy",
    "iniconfig",
    "packaging",
    "typing_extensions",
    "sandlock",
)
SUITES = (
    "sandbox/test_holes.py",
    "sandbox/test_limits.py",
    "sandbox/test_lifecycle.py",
    "sandbox/test_selftest.py",
    "abuse/test_attacks.py",
    "abuse/test_lifecycle.py",
)
# What those suites have in common with the others.
SHARED = ("processes.py", "results.py")
INTERPRETERS = (
    sys.executable,
    "/var/lib/agentmesh/sandbox-python/current/bin/python3",
    "/usr/bin/python3",
)

# What an ordinary user cannot have; whatever else is skipped would go unseen.
FOR_ROOT = (
    "can make no control group",
    "no control group can be made",
    "no control groups, and so no residents",
    "has one uid",
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the other tests ran as an ordinary user")


def as_user(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        user=UID,
        group=UID,
        extra_groups=[],
        cwd=folder,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder / "home"),
            "PYTHONPATH": str(folder / "source"),
            "TMPDIR": str(folder / "home"),
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Readable by all, with the source, the tests and what runs them; `home` is the user's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        source = folder / "source"
        for module in (agentmesh_tool_runner, meshkit):
            package = Path(str(module.__file__)).parent
            shutil.copytree(package, source / package.name)
        for tests in ("sandbox", "abuse"):
            shutil.copytree(Path(__file__).parents[1] / tests, folder / "tests" / tests)
        for shared in SHARED:
            shutil.copy(Path(__file__).parents[1] / shared, folder / "tests")
        for name in NEEDED:
            copy_distribution(name, source)
        home = folder / "home"
        home.mkdir()
        os.chown(home, UID, UID)
        yield folder


def copy_distribution(name: str, target: Path) -> None:
    for file in importlib.metadata.files(name) or ():
        if ".." not in file.parts:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), target / file)


@pytest.fixture
def interpreter(folder: Path) -> str:
    wanted = "import sys; assert sys.version_info >= (3, 11)"
    for path in INTERPRETERS:
        try:
            if as_user(path, "-c", wanted, folder=folder).returncode == 0:
                return path
        except OSError:
            continue
    pytest.skip("no Python that an ordinary user could run")


@pytest.mark.parametrize("suite", SUITES)
def test_abuse_as_an_ordinary_user(folder: Path, interpreter: str, suite: str) -> None:
    options = [
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
        "--import-mode=importlib",
    ]
    told = as_user(interpreter, "-m", "pytest", *options, f"tests/{suite}", folder=folder)
    assert told.returncode == 0, told.stdout[-6000:] + told.stderr[-2000:]
    assert " passed" in told.stdout
    skipped = [line for line in told.stdout.splitlines() if line.startswith("SKIPPED")]
    assert [line for line in skipped if not any(reason in line for reason in FOR_ROOT)] == []
