"""What a bubblewrap sandbox looks like from inside, as bwrap's arguments."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import inside
from .inside import Launch
from .launcher_protocol import (
    BLOCK_DESCRIPTOR,
    FIRST_EXTRA_DESCRIPTOR,
    STATUS_DESCRIPTOR,
    TEMPORARY_FOLDERS,
)
from .model import INPUT_DIRECTORY, MIB, WORKSPACE_DIRECTORY, ExecutionSpec, Limits

_FILTER_DESCRIPTOR: Final = FIRST_EXTRA_DESCRIPTOR + 1
_RESIDENT_DIRECTORY: Final = "/run/resident"
_RESIDENT_MODULES: Final = ("kernel", "resident", "resident_child", "resident_python")
_RESIDENT_TEMPORARY_FILES: Final = 64
_START: Final = """import sys
bare = frozenset(sys.modules)
from {module} import main
main(bare)
"""


@dataclass(frozen=True)
class Installation:
    """What is installed here: bwrap, and the folder of the Python environment for sandboxes."""

    bwrap: str
    python_folder: Path | None
    options: frozenset[str]
    toolchains: tuple[Path, ...] = ()


def supported_options(bwrap: str) -> frozenset[str]:
    """The long options this bwrap knows. Raises OSError if it does not run."""
    told = subprocess.run(  # noqa: S603 - a fixed program that the operator installed
        [bwrap, "--help"], capture_output=True, text=True, timeout=10, check=False, env={}
    )
    words = (told.stdout + told.stderr).split()
    return frozenset(word for word in words if word.startswith("--"))


def compose(
    installation: Installation,
    spec: ExecutionSpec,
    *,
    workspace: str,
    seccomp: bytes,
    processes: int | None,
) -> Launch:
    """`workspace` is where the launcher mounted it; `processes` is a bound to set from outside
    where no control group has it.
    """
    arguments = _Arguments(seccomp)
    arguments.add(*_isolation(installation))
    if "--disable-userns" in installation.options:
        # The seccomp filter refuses new user namespaces as well; this holds without it.
        arguments.add("--disable-userns")
    files = {f"{INPUT_DIRECTORY}/{name}": data for name, data in spec.files.items()}
    limits = spec.limits
    _add_files(
        arguments, installation, files, workspace, limits.temporary_bytes, limits.workspace_files
    )
    arguments.add("--seccomp", str(_FILTER_DESCRIPTOR))
    if processes is not None:
        arguments.add("--block-fd", str(BLOCK_DESCRIPTOR))
    environment = inside.environment(installation.python_folder, installation.toolchains)
    environment |= dict(spec.environment)
    late = [] if processes is None else [(resource.RLIMIT_NPROC, processes)]
    return arguments.launch(installation.bwrap, environment, spec.argv, late)


def compose_resident(
    installation: Installation, limits: Limits, *, workspace: str, seccomp: bytes
) -> Launch:
    """A sandbox whose first process is a resident.

    Each program gets the temporary folders of `limits`. Its channel is the descriptor after the
    contents. It keeps two capabilities over the sandbox's
    namespaces and loads the filter into its children, which lose both.
    """
    arguments = _Arguments(seccomp)
    arguments.add(*_isolation(installation), "--as-pid-1")
    for capability in ("CAP_SYS_ADMIN", "CAP_SETPCAP"):
        arguments.add("--cap-add", capability)
    files = {f"{_RESIDENT_DIRECTORY}/{name}": data for name, data in _resident_files().items()}
    _add_files(arguments, installation, files, workspace, MIB, _RESIDENT_TEMPORARY_FILES)
    environment = dict(inside.environment(installation.python_folder, installation.toolchains))
    # Nothing of the workspace may be imported before a program runs.
    del environment["PYTHONPATH"]
    # What is looked up when it is used first would be looked up by each child again.
    environment["LD_BIND_NOW"] = "1"
    argv = [inside.python_path(installation.python_folder), "-u", "-B"]
    argv += [f"{_RESIDENT_DIRECTORY}/start.py", str(arguments.next_descriptor)]
    argv += [str(_FILTER_DESCRIPTOR), str(limits.temporary_bytes), str(limits.workspace_files)]
    return arguments.launch(installation.bwrap, environment, argv, [])


@functools.cache
def _resident_files() -> Mapping[str, bytes]:
    """The resident's source, as the package that it is, and what starts it."""
    folder = Path(__file__).parent
    package, _, subpackage = __package__.rpartition(".")
    files = {f"{package}/__init__.py": b"", f"{package}/{subpackage}/__init__.py": b""}
    for name in _RESIDENT_MODULES:
        files[f"{package}/{subpackage}/{name}.py"] = (folder / f"{name}.py").read_bytes()
    files["start.py"] = _START.format(module=f"{__package__}.resident").encode()
    return files


class _Arguments:
    """bwrap's options, and the contents of the descriptors that they name."""

    def __init__(self, seccomp: bytes) -> None:
        # The first place is kept for the options themselves.
        self._contents = [b"", seccomp]
        self._options: list[str] = []
        self.temporary: list[tuple[str, int, int]] = []

    def add(self, *options: str) -> None:
        self._options += options

    def file(self, name: str, data: bytes) -> None:
        self.add("--perms", "0555", "--ro-bind-data", str(self.next_descriptor), name)
        self._contents.append(data)

    @property
    def next_descriptor(self) -> int:
        return FIRST_EXTRA_DESCRIPTOR + len(self._contents)

    def launch(
        self,
        bwrap: str,
        environment: Mapping[str, str],
        argv: Sequence[str],
        late_limits: Sequence[tuple[int, int]],
    ) -> Launch:
        self.add("--json-status-fd", str(STATUS_DESCRIPTOR))
        for name, value in environment.items():
            self.add("--setenv", name, value)
        self._contents[0] = b"".join(os.fsencode(option) + b"\0" for option in self._options)
        command = [bwrap, "--args", str(FIRST_EXTRA_DESCRIPTOR), "--", *argv]
        return Launch(command, self._contents, late_limits, self.temporary)


def _add_files(
    arguments: _Arguments,
    installation: Installation,
    files: Mapping[str, bytes],
    workspace: str,
    temporary_bytes: int,
    temporary_files: int,
) -> None:
    arguments.add(*_system_files(installation))
    arguments.file("/etc/passwd", inside.PASSWD)
    arguments.file("/etc/group", inside.GROUP)
    # Of the launcher's child's making, for bwrap's own have no bound on the number of files.
    folders = [str(Path(workspace).parent / name) for name in TEMPORARY_FOLDERS]
    arguments.temporary = [(folder, temporary_bytes, temporary_files) for folder in folders]
    arguments.add("--proc", "/proc", "--dev", "/dev")
    arguments.add("--bind", folders[0], "/tmp")  # noqa: S108 - inside
    arguments.add("--bind", folders[1], "/dev/shm", "--remount-ro", "/dev")  # noqa: S108 - inside
    arguments.add("--perms", "0755", "--dir", INPUT_DIRECTORY)
    for name, data in files.items():
        arguments.file(name, data)
    arguments.add("--bind", workspace, WORKSPACE_DIRECTORY, "--chdir", WORKSPACE_DIRECTORY)
    arguments.add("--remount-ro", "/")


def _isolation(installation: Installation) -> list[str]:
    options = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    inner = str(inside.INNER_ID)
    options += ["--uid", inner, "--gid", inner, "--hostname", "sandbox"]
    return [*options, "--clearenv"]


def _system_files(installation: Installation) -> list[str]:
    system = inside.system_files()
    options: list[str] = []
    for folder in system.folders:
        options += ["--ro-bind", folder, folder]
    for name, target in system.links:
        options += ["--symlink", target, name]
    for file in (*system.files, *map(str, installation.toolchains)):
        options += ["--ro-bind-try", file, file]
    if installation.python_folder:
        options += ["--ro-bind", str(installation.python_folder), inside.PYTHON_DIRECTORY]
    return options
