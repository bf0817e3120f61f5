"""What a sandbox of this machine looks like from inside, whichever backend builds it."""

from __future__ import annotations

import functools
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .model import MIB, WORKSPACE_DIRECTORY, Limits

INNER_ID: Final = 1000
PYTHON_DIRECTORY: Final = "/opt/python"
PASSWD: Final = b"sandbox:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"
GROUP: Final = b"sandbox:x:1000:\nnogroup:x:65534:\n"
_TOP_LEVEL_FOLDERS: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SYSTEM_FILES: Final = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
# Debian's Java virtual machines do not start without.
_JAVA_SETTINGS: Final = "java-*-openjdk"
_STACK_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True)
class Launch:
    """What the launcher starts, and how.

    `contents` are laid into the descriptors from 3 on. Without an `enclosure` the child becomes
    `argv`; with one it builds that itself and runs `argv` inside. `late_limits` are set from
    outside on the first process inside, which waits for them. At each of `temporary` (path, bytes,
    files) the child mounts a tmpfs that it alone sees.
    """

    argv: Sequence[str]
    contents: Sequence[bytes]
    late_limits: Sequence[tuple[int, int]] = ()
    temporary: Sequence[tuple[str, int, int]] = ()
    enclosure: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SystemFiles:
    """The part of the host that every sandbox sees, read-only and under the same names."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    """May be missing."""
    links: tuple[tuple[str, str], ...]
    """Name and what it points to."""


@functools.cache
def system_files() -> SystemFiles:
    """Programs and libraries; a merged /usr is followed."""
    folders, links = ["/usr"], []
    for folder in _TOP_LEVEL_FOLDERS:
        path = Path(folder)
        if path.is_symlink():
            links.append((folder, str(path.readlink())))
        elif path.is_dir():
            folders.append(folder)
    java = (str(path) for path in sorted(Path("/etc").glob(_JAVA_SETTINGS)))
    return SystemFiles(tuple(folders), (*_SYSTEM_FILES, *java), tuple(links))


def python_path(python_folder: Path | None) -> str:
    """Where the interpreter is inside."""
    return f"{PYTHON_DIRECTORY}/bin/python3" if python_folder else "/usr/bin/python3"


def environment(python_folder: Path | None, toolchains: Sequence[Path] = ()) -> dict[str, str]:
    """All variables that a program has besides those it is given."""
    path = ":".join([*(f"{folder}/bin" for folder in toolchains), "/usr/local/bin:/usr/bin:/bin"])
    if python_folder:
        path = f"{PYTHON_DIRECTORY}/bin:{path}"
    return {
        **_library_path(python_folder),
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
        return {"LD_LIBRARY_PATH": f"{PYTHON_DIRECTORY}/lib"}
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
