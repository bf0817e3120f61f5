"""What a bubblewrap sandbox looks like from inside, as bwrap's arguments."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .backend import INPUT_DIRECTORY, MIB, WORKSPACE_DIRECTORY, ExecutionSpec, Limits
from .launcher_protocol import BLOCK_DESCRIPTOR, FIRST_EXTRA_DESCRIPTOR, STATUS_DESCRIPTOR

_INNER_ID: Final = 1000
_PYTHON_DIRECTORY: Final = "/opt/python"
_PASSWD: Final = b"sandbox:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"
_GROUP: Final = b"sandbox:x:1000:\nnogroup:x:65534:\n"
_TOP_LEVEL_FOLDERS: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SYSTEM_FILES: Final = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
_STACK_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True)
class Installation:
    """What is installed here: bwrap, and the folder of the Python environment for sandboxes."""

    bwrap: str
    python_folder: Path | None
    options: frozenset[str]

    @property
    def python(self) -> str:
        """The interpreter's path inside."""
        return f"{_PYTHON_DIRECTORY}/bin/python3" if self.python_folder else "/usr/bin/python3"


def supported_options(bwrap: str) -> frozenset[str]:
    """The long options this bwrap knows. Raises OSError if it does not run."""
    told = subprocess.run(  # noqa: S603 - a fixed program that the operator installed
        [bwrap, "--help"], capture_output=True, text=True, timeout=10, check=False, env={}
    )
    words = (told.stdout + told.stderr).split()
    return frozenset(word for word in words if word.startswith("--"))


@dataclass(frozen=True)
class Launch:
    """Command line, option text for `--args`, and the contents of the descriptors it names from 3
    on.
    """

    argv: Sequence[str]
    contents: Sequence[bytes]


def compose(
    installation: Installation,
    spec: ExecutionSpec,
    *,
    workspace: str,
    seccomp: bytes,
    bounded_late: bool,
) -> Launch:
    """`workspace` is where the launcher mounted it; `bounded_late` waits for limits set from
    outside.
    """
    contents: list[bytes] = [b"", seccomp]  # the first place is kept for the options themselves

    def descriptor_of(data: bytes) -> str:
        contents.append(data)
        return str(FIRST_EXTRA_DESCRIPTOR + len(contents) - 1)

    options = [*_isolation(installation), *_system_files(installation)]
    options += ["--ro-bind-data", descriptor_of(_PASSWD), "/etc/passwd"]
    options += ["--ro-bind-data", descriptor_of(_GROUP), "/etc/group"]
    size = str(spec.limits.temporary_bytes)
    options += ["--proc", "/proc", "--dev", "/dev"]
    options += ["--perms", "1777", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108 - inside
    options += ["--perms", "1777", "--size", size, "--tmpfs", "/tmp"]  # noqa: S108 - inside
    options += ["--perms", "0755", "--dir", INPUT_DIRECTORY]
    for name, data in spec.files.items():
        options += ["--ro-bind-data", descriptor_of(data), f"{INPUT_DIRECTORY}/{name}"]
    options += ["--bind", workspace, WORKSPACE_DIRECTORY, "--chdir", WORKSPACE_DIRECTORY]
    options += ["--remount-ro", "/", "--seccomp", str(FIRST_EXTRA_DESCRIPTOR + 1)]
    options += ["--json-status-fd", str(STATUS_DESCRIPTOR)]
    if bounded_late:
        options += ["--block-fd", str(BLOCK_DESCRIPTOR)]
    for name, value in {**_environment(installation), **spec.environment}.items():
        options += ["--setenv", name, value]
    contents[0] = b"".join(os.fsencode(option) + b"\0" for option in options)
    argv = [installation.bwrap, "--args", str(FIRST_EXTRA_DESCRIPTOR), "--", *spec.argv]
    return Launch(argv, contents)


def _isolation(installation: Installation) -> list[str]:
    options = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if "--disable-userns" in installation.options:
        # The seccomp filter refuses new user namespaces as well; this holds without it.
        options.append("--disable-userns")
    options += ["--uid", str(_INNER_ID), "--gid", str(_INNER_ID), "--hostname", "sandbox"]
    return [*options, "--clearenv"]


def _system_files(installation: Installation) -> list[str]:
    options = list(_base_system())
    if installation.python_folder:
        options += ["--ro-bind", str(installation.python_folder), _PYTHON_DIRECTORY]
    return options


@functools.cache
def _base_system() -> tuple[str, ...]:
    options = ["--ro-bind", "/usr", "/usr"]
    for folder in _TOP_LEVEL_FOLDERS:
        path = Path(folder)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), folder]
        elif path.is_dir():
            options += ["--ro-bind", folder, folder]
    for file in _SYSTEM_FILES:
        options += ["--ro-bind-try", file, file]
    return tuple(options)


def _environment(installation: Installation) -> dict[str, str]:
    path = "/usr/local/bin:/usr/bin:/bin"
    if installation.python_folder:
        path = f"{_PYTHON_DIRECTORY}/bin:{path}"
    return {
        **_library_path(installation.python_folder),
        "PATH": path,
        "HOME": "/tmp",  # noqa: S108 - inside
        "TMPDIR": "/tmp",  # noqa: S108 - inside
        "USER": "sandbox",
        "LANG": "C.UTF-8",
        "PYTHONPATH": WORKSPACE_DIRECTORY,
        "PYTHONUNBUFFERED": "1",
        # Neither caches nor bytecode belong into what is kept of a workspace.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }


@functools.cache
def _library_path(python_folder: Path | None) -> dict[str, str]:
    """A copied interpreter with a shared library looks for it where it came from."""
    if python_folder and any((python_folder / "lib").glob("libpython*")):
        return {"LD_LIBRARY_PATH": f"{_PYTHON_DIRECTORY}/lib"}
    return {}


def process_limits(limits: Limits, *, address_space: int | None) -> list[tuple[int, int]]:
    """Limits that every process of the sandbox inherits, as (RLIMIT_*, value)."""
    # A little more than fits, so that a program meets "no space left" rather than a signal.
    largest_file = max(limits.workspace_bytes, limits.temporary_bytes) + MIB
    values = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, int(limits.cpu_seconds) + 2),
        (resource.RLIMIT_FSIZE, largest_file),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_STACK, _STACK_BYTES),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    ]
    if address_space is not None:
        values.append((resource.RLIMIT_AS, address_space))
    return values
