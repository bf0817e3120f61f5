"""Builds the Python environment that sandboxed code runs in, and prints its folder.

Code in a sandbox runs under another user, so its interpreter must be readable by everybody: one in
root's home is not. Takes the system's python3 if it is new enough and world-readable, else a copy
of the interpreter that runs this script; installs the pinned packages beside it; and names the
folder after what went into it, so that running it again does nothing.

    python scripts/prepare_sandbox_python.py [--root FOLDER] [--requirements FILE]

The folder is AGENTMESH_SANDBOX_PYTHON for the tool runner, which finds it here by itself:
/var/lib/agentmesh/sandbox-python for root, else $XDG_DATA_HOME/agentmesh/sandbox-python; the newest
environment is the one that the link `current` names. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

OLDEST = (3, 11)
SYSTEM_INTERPRETERS = ("/usr/bin/python3", "/usr/local/bin/python3", "/bin/python3")
REQUIREMENTS = Path(__file__).parents[1] / "services/tool_runner/sandbox-requirements.txt"
# Changed when the layout changes, so that older environments are not taken for new ones.
LAYOUT = 1
# What no program under test needs, and what would make the copy three times as large.
LEFT_OUT = (
    "test",
    "idlelib",
    "lib2to3",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "site-packages",
    "__pycache__",
)
PROBE = """
import asyncio, ctypes, json, sqlite3, ssl, sys, unittest, zlib, pytest
assert sys.version_info[:2] == {version}, "another Python's shared library was loaded"
"""


def default_root() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/agentmesh/sandbox-python")
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(data) / "agentmesh/sandbox-python"


def readable_by_all(path: Path) -> bool:
    """True if every user can reach and read the file, links on the way included."""
    real = path.resolve()
    try:
        reachable = all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents)
        return reachable and bool(real.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def version_of(interpreter: Path) -> tuple[int, int] | None:
    """Major and minor version; None if it does not run or lacks part of its standard library."""
    code = "import sys, ssl, ctypes, sqlite3, json; print(json.dumps(sys.version_info[:2]))"
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        told = subprocess.run(
            [interpreter, "-I", "-c", code], capture_output=True, check=True, timeout=60
        )
        major, minor = json.loads(told.stdout)
        return major, minor
    return None


def system_interpreter() -> Path | None:
    """The system's Python, by its real path, if it will do for sandboxes."""
    for name in SYSTEM_INTERPRETERS:
        path = Path(name)
        if path.exists() and readable_by_all(path) and (version_of(path) or (0, 0)) >= OLDEST:
            return path.resolve()
    return None


def digest(requirements: Path, interpreter: Path | None) -> str:
    """Names an environment: another interpreter, layout or set of packages gives another name."""
    source = str(interpreter) if interpreter else f"copy of {sys.version} {sys.base_prefix}"
    changed = interpreter.stat().st_mtime_ns if interpreter else 0
    parts = [LAYOUT, source, changed, platform.machine(), requirements.read_text(encoding="utf-8")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def make_environment(folder: Path, interpreter: Path) -> Path:
    """A virtual environment written by hand: Debian's python3 comes without ensurepip."""
    version = version_of(interpreter) or OLDEST
    packages = folder / f"lib/python{version[0]}.{version[1]}/site-packages"
    packages.mkdir(parents=True)
    binary = folder / "bin"
    binary.mkdir()
    for name in ("python3", "python", f"python{version[0]}.{version[1]}"):
        (binary / name).symlink_to(interpreter)
    settings = f"home = {interpreter.parent}\ninclude-system-site-packages = false\n"
    (folder / "pyvenv.cfg").write_text(settings, encoding="utf-8")
    return binary / "python3"


def copy_interpreter(folder: Path) -> Path:
    """The running interpreter with its standard library, under a path of its own."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    paths = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_prefix})
    shutil.copytree(
        paths["stdlib"],
        folder / f"lib/python{version}",
        symlinks=True,
        ignore=shutil.ignore_patterns(*LEFT_OUT),
    )
    (folder / f"lib/python{version}/site-packages").mkdir()
    binary = folder / "bin"
    binary.mkdir()
    base = Path(sys.base_prefix) / f"bin/python{version}"
    shutil.copy2(
        base.resolve() if base.exists() else Path(sys.executable).resolve(), binary / base.name
    )
    for name in ("python3", "python"):
        (binary / name).symlink_to(base.name)
    library_folder = sysconfig.get_config_var("LIBDIR")
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and library_folder:
        for library in Path(library_folder).glob(f"libpython{version}*.so*"):
            shutil.copy2(library, folder / "lib" / library.name)
    # The sandbox sets LD_LIBRARY_PATH to this folder: the copy still looks where it came from.
    return binary / "python3"


def install(interpreter: Path, packages: Path, requirements: Path) -> None:
    """Installs the pinned packages with whichever installer there is: uv, else our own pip."""
    if uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--python", str(interpreter), "--quiet"]
        # Links into uv's cache would take the modes set here.
        command += ["--link-mode", "copy"]
    elif importable("pip"):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--python-version", ".".join(map(str, version_of(interpreter) or OLDEST))]
        command += ["--only-binary", ":all:", "--implementation", "cp"]
    else:
        sys.exit("neither uv nor pip is here to install packages with: install uv, or python3-pip")
    command += ["--target", str(packages), "--require-hashes", "--requirement", str(requirements)]
    subprocess.run(command, check=True)


def importable(module: str) -> bool:
    told = subprocess.run(
        [sys.executable, "-c", f"import {module}"], capture_output=True, check=False
    )
    return told.returncode == 0


def expose_programs(folder: Path, packages: Path) -> None:
    """Puts the packages' programs on the PATH, free of the path they were installed under."""
    for program in sorted((packages / "bin").iterdir() if (packages / "bin").is_dir() else ()):
        target = folder / "bin" / program.name
        if program.read_bytes()[:2] != b"#!":
            shutil.move(program, target)
        elif (packages / program.name / "__main__.py").exists():
            script = f'#!/bin/sh\nexec "$(dirname "$0")/python3" -m {program.name} "$@"\n'
            target.write_text(script, encoding="utf-8")
            target.chmod(0o755)
    shutil.rmtree(packages / "bin", ignore_errors=True)


def open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o055 if path.is_dir() or mode & 0o100 else mode | 0o044)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """One build at a time."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(target: Path, interpreter: Path | None, requirements: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=".building-"))
    try:
        inner = make_environment(folder, interpreter) if interpreter else copy_interpreter(folder)
        packages = next(folder.glob("lib/python3.*/site-packages"))
        install(inner, packages, requirements)
        expose_programs(folder, packages)
        open_to_all(folder)
        subprocess.run([inner, "-m", "compileall", "-q", packages], check=False)
        open_to_all(folder)
        prove(folder, inner)
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def prove(folder: Path, interpreter: Path) -> None:
    """Runs it as the sandbox will: without root's rights, in an almost empty environment."""
    environment = {"LD_LIBRARY_PATH": str(folder / "lib")} if has_shared_library(folder) else {}
    command = [str(interpreter), "-I", "-c", PROBE.format(version=version_of(interpreter))]
    if os.geteuid() == 0:
        nobody = 65534
        subprocess.run(
            command,
            check=True,
            env=environment,
            cwd="/",
            user=nobody,
            group=nobody,
            extra_groups=[],
        )
    else:
        subprocess.run(command, check=True, env=environment, cwd="/")


def has_shared_library(folder: Path) -> bool:
    return any((folder / "lib").glob("libpython*"))


def point_at(root: Path, target: Path) -> None:
    """Makes `current` name the environment, in one step."""
    link = root / f".current-{os.getpid()}"
    link.symlink_to(target.name)
    link.replace(root / "current")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=default_root())
    parser.add_argument("--requirements", type=Path, default=REQUIREMENTS)
    arguments = parser.parse_args()
    root: Path = arguments.root.absolute()
    interpreter = system_interpreter()
    if interpreter is None and sys.version_info[:2] < OLDEST:
        sys.exit(f"no Python of version {OLDEST[0]}.{OLDEST[1]} or newer to give to sandboxes")
    target = root / digest(arguments.requirements, interpreter)
    with locked(root):
        if not target.is_dir():
            print(f"preparing the sandbox's Python in {target}", file=sys.stderr)
            build(target, interpreter, arguments.requirements)
        point_at(root, target)
    print(target)


if __name__ == "__main__":
    main()
