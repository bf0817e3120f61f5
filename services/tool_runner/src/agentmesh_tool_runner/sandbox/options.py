"""Settings of the backends of this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from .model import MIB, Limits

_MAXIMUM: Final = Limits(
    wall_seconds=600,
    cpu_seconds=600,
    cpus=2.0,
    memory_bytes=2048 * MIB,
    processes=256,
    output_bytes=16 * MIB,
)


@dataclass(frozen=True)
class LocalOptions:
    """Settings of a backend; see the service's README for what they mean."""

    data_folder: Path
    python_folder: Path | None = None
    toolchains: tuple[Path, ...] = ()
    """Folders that sandboxes see under their own names, with their `bin` on the PATH."""
    cgroup: Path | None = None
    use_cgroups: bool = True
    first_uid: int = 1_879_048_192
    """The first of the uids that sandboxes get where the service is root; systemd leaves them
    unused.
    """
    max_executions: int = 8
    max_open_workspaces: int = 16
    workspace_idle_seconds: float = 300.0
    workspace_lifetime_seconds: float = 14_400.0
    warm_sandboxes: int = 2
    """Made ahead of need, each for one workspace that opens; 0 makes none."""
    maximum: Limits = _MAXIMUM
    """No execution gets more.

    Its `workspace_bytes` and `workspace_files` are those of every workspace.
    """

    @property
    def resident_limits(self) -> Limits:
        """What a program in a resident's sandbox may have at most: its temporary folders have their
        sizes before it is known, and those are the usual ones."""
        usual = min(Limits().temporary_bytes, self.maximum.temporary_bytes)
        return replace(self.maximum, temporary_bytes=usual)
