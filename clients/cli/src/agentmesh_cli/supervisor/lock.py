"""One mesh per data directory."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from agentmesh_cli.errors import CliError

_LOCK_NAME = "mesh.lock"


class DataDirLock:
    """Holds a data directory; the kernel lets go of it when the process ends, however it ends."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock. Raises CliError that names the holder if there is one."""
        path = self._data_dir / _LOCK_NAME
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _already_runs(self._data_dir) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))
        self._descriptor = descriptor

    def release(self) -> None:
        """Lets go. The file stays: removing it would let two processes lock two files."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.release()


def lock_is_held(data_dir: Path) -> bool:
    """True if some process supervises a mesh on `data_dir` now."""
    try:
        descriptor = os.open(data_dir / _LOCK_NAME, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def refuse_if_held(data_dir: Path) -> None:
    """Raises CliError that names the holder if a mesh runs on `data_dir`."""
    if lock_is_held(data_dir):
        raise _already_runs(data_dir)


def _already_runs(data_dir: Path) -> CliError:
    holder = (data_dir / _LOCK_NAME).read_text(encoding="ascii", errors="replace").strip()
    return CliError(
        f"a mesh already runs on {data_dir}" + (f" (pid {holder})" if holder else ""),
        remedy="stop it with `agentmesh down`, or name another directory with --data-dir",
    )
