"""The bubblewrap backend: sandboxes built by bwrap."""

from __future__ import annotations

from dataclasses import dataclass

from . import profile
from .inside import Launch
from .local import LocalBackend
from .model import ExecutionSpec, SandboxUnavailableError
from .options import LocalOptions


@dataclass(frozen=True)
class BubblewrapOptions(LocalOptions):
    """Settings of this backend."""

    bwrap: str = "/usr/bin/bwrap"


class BubblewrapBackend(LocalBackend):
    """Runs programs in sandboxes of bwrap."""

    def __init__(self, options: BubblewrapOptions) -> None:
        super().__init__(options)
        self._bwrap = options.bwrap
        self._installation = profile.Installation(options.bwrap, None, frozenset())

    @property
    def name(self) -> str:
        return "bubblewrap"

    @property
    def _isolation(self) -> str:
        return "user, pid, mount, ipc, uts and cgroup namespaces by bwrap"

    def _find_tools(self) -> None:
        try:
            known = profile.supported_options(self._bwrap)
        except OSError as error:
            raise SandboxUnavailableError(
                f"{self._bwrap} is missing: install the package bubblewrap"
            ) from error
        if "--size" not in known:
            raise SandboxUnavailableError(
                "this bubblewrap is too old: install version 0.7 or newer"
            )
        self._installation = profile.Installation(
            self._bwrap, self._options.python_folder, known, self._options.toolchains
        )

    def _compose(self, spec: ExecutionSpec, *, workspace: str, processes: int | None) -> Launch:
        return profile.compose(
            self._installation,
            spec,
            workspace=workspace,
            seccomp=self._filter,
            processes=processes,
        )

    def _compose_resident(self, workspace: str) -> Launch:
        return profile.compose_resident(
            self._installation,
            self._options.resident_limits,
            workspace=workspace,
            seccomp=self._filter,
        )
