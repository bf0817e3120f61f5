"""The sandlock backend: sandboxes where bubblewrap is missing.

sandlock takes the files, signals and abstract sockets away (Landlock). What it cannot bound without
a privileged or racing supervisor (total memory, threads, disk, the life of daemons) is bounded as
for bubblewrap; the namespaces that this takes are made by the launcher's child itself.
"""

from __future__ import annotations

import ctypes
import importlib.util
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import inside
from .enclosure import NAMESPACES
from .launcher_protocol import FIRST_EXTRA_DESCRIPTOR
from .local import LocalBackend
from .model import INPUT_DIRECTORY, MIB, WORKSPACE_DIRECTORY, ExecutionSpec, SandboxUnavailableError
from .options import LocalOptions

_LANDLOCK_NEEDED: Final = 6
_SYS_LANDLOCK_CREATE_RULESET: Final = 444  # the same on every machine
_VERSION_FLAG: Final = 1
_WRITABLE: Final = (WORKSPACE_DIRECTORY, "/tmp", "/dev")  # noqa: S108 - inside


def landlock_version() -> int:
    """The version of Landlock's interface that this kernel offers; -1 where it offers none."""
    return int(ctypes.CDLL(None).syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _VERSION_FLAG))


class SandlockBackend(LocalBackend):
    """Runs programs in namespaces of its own making, locked by sandlock."""

    def __init__(self, options: LocalOptions) -> None:
        super().__init__(options)
        self._host: list[tuple[str, str]] = []

    @property
    def name(self) -> str:
        return "sandlock"

    @property
    def _isolation(self) -> str:
        return "user, pid, mount, ipc, uts and cgroup namespaces; a Landlock domain by sandlock"

    def _find_tools(self) -> None:
        version = landlock_version()
        if version < _LANDLOCK_NEEDED:
            raise SandboxUnavailableError(
                "sandlock needs a kernel with Landlock 6 (Linux 6.12 or newer, landlock among its "
                f"lsm=), this one has {max(version, 0)}"
            )
        found = importlib.util.find_spec("sandlock")
        if found is None or found.origin is None:
            raise SandboxUnavailableError(
                "sandlock is missing: install the Python package sandlock"
            )
        self.sandlock = Path(found.origin).parents[1]
        self._host = _host_files(self._options.python_folder, self._options.toolchains)

    def _compose(
        self, spec: ExecutionSpec, *, workspace: str, processes: int | None
    ) -> inside.Launch:
        files = {"/etc/passwd": inside.PASSWD, "/etc/group": inside.GROUP}
        files |= {f"{INPUT_DIRECTORY}/{name}": data for name, data in spec.files.items()}
        descriptors = range(FIRST_EXTRA_DESCRIPTOR + 1, FIRST_EXTRA_DESCRIPTOR + 1 + len(files))
        enclosure = {
            "namespaces": list(NAMESPACES),
            "id": inside.INNER_ID,
            "host": self._host,
            "links": inside.system_files().links,
            "folders": [INPUT_DIRECTORY],
            "files": list(zip(files, descriptors, strict=True)),
            "content_bytes": sum(map(len, files.values())) + MIB,
            "workspace": workspace,
            "directory": WORKSPACE_DIRECTORY,
            "temporary_bytes": spec.limits.temporary_bytes,
            "temporary_files": spec.limits.workspace_files,
            "filter": FIRST_EXTRA_DESCRIPTOR,
            "limits": [] if processes is None else [(resource.RLIMIT_NPROC, processes)],
            "readable": ["/"],
            "writable": _WRITABLE,
            "environment": inside.environment(self._options.python_folder, self._options.toolchains)
            | dict(spec.environment),
        }
        contents = [self._filter, *files.values()]
        return inside.Launch(list(spec.argv), contents, enclosure=enclosure)


def _host_files(python_folder: Path | None, toolchains: Sequence[Path]) -> list[tuple[str, str]]:
    """What is shown of the host: where it is, and under which name it is inside."""
    system = inside.system_files()
    shown = [(folder, folder) for folder in system.folders]
    shown += [(str(Path(file).resolve()), file) for file in system.files if Path(file).exists()]
    shown += [(str(folder.resolve()), str(folder)) for folder in toolchains if folder.is_dir()]
    if python_folder:
        shown.append((str(python_folder), inside.PYTHON_DIRECTORY))
    return shown
