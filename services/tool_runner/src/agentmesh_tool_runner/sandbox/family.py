"""The bound on total memory where no control group can be had.

RLIMIT_AS bounds one process and RLIMIT_NPROC, counted in the sandbox's own user namespace, bounds
how many there are: their product bounds the sandbox. It is a real bound only while the machine
could bear it, so the number of processes is chosen such that all sandboxes together stay within
half the memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from .model import MIB, Limits, SandboxUnavailableError

_FEWEST_PROCESSES: Final = 6
_SMALLEST_ADDRESS_SPACE: Final = 256 * MIB
_SHARE_OF_MACHINE: Final = 0.5


@dataclass(frozen=True)
class Product:
    """Limits of one sandbox: address space per process in bytes, and processes."""

    address_space: int
    processes: int


@dataclass(frozen=True)
class FamilyBound:
    """How many sandboxes may run at once, and bytes that each may use at the very most."""

    sandboxes: int
    bytes_each: int

    def for_limits(self, limits: Limits) -> Product:
        """As many processes as the bound allows, each with the memory of the execution's limit."""
        address_space = min(
            max(limits.memory_bytes, _SMALLEST_ADDRESS_SPACE), self.bytes_each // _FEWEST_PROCESSES
        )
        return Product(address_space, min(limits.processes, self.bytes_each // address_space))

    def __str__(self) -> str:
        return f"RLIMIT_AS times RLIMIT_NPROC within {self.bytes_each // MIB} MiB"


def plan_family_bound(sandboxes: int, machine_bytes: int | None = None) -> FamilyBound:
    """The bound for at most so many sandboxes; fewer where memory is short.

    `machine_bytes` is the machine's memory, asked of the system if not given. Raises
    SandboxUnavailableError where it does not do for one sandbox.
    """
    machine = machine_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    share = int(machine * _SHARE_OF_MACHINE)
    comfortable = _FEWEST_PROCESSES * Limits().memory_bytes
    count = min(sandboxes, max(1, share // comfortable))
    if share // count < _FEWEST_PROCESSES * _SMALLEST_ADDRESS_SPACE:
        raise SandboxUnavailableError(
            "no control group for memory can be had, and this machine has too little memory to "
            "bound a sandbox without: delegate a cgroup to the service"
        )
    return FamilyBound(count, share // count)
