"""The seccomp filter of the sandbox, assembled to classic BPF in pure Python.

Allow list; everything else answers ENOSYS, so that C libraries fall back to older calls (clone3 to
clone, io_uring to epoll). Programs built for another machine or for x32 are refused outright.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from . import syscalls

_LOAD_WORD = 0x20
_JUMP_ALWAYS = 0x05
_JUMP_EQUAL = 0x15
_JUMP_GREATER_EQUAL = 0x35
_JUMP_SET = 0x45
_RETURN = 0x06

_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_RET_KILL_PROCESS = 0x80000000

_OFFSET_NUMBER = 0
_OFFSET_ARCH = 4
_OFFSET_ARGUMENTS = 16

# CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACE_FLAGS: Final = 0x80 | 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x70000000
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
# They type for another terminal's reader, paste on a console, load modules of the kernel.
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
# The personalities of Moby's profile: PER_LINUX, UNAME26, PER_LINUX32, both, and "tell me".
_PERSONALITIES: Final = (0x0, 0x20000, 0x8, 0x20008, 0xFFFFFFFF)


@dataclass(frozen=True)
class Machine:
    """What differs between the machines that the filter is made for."""

    audit_arch: int
    numbers: Mapping[str, int]


MACHINES: Final[Mapping[str, Machine]] = {
    "x86_64": Machine(audit_arch=0xC000003E, numbers=syscalls.X86_64),
    "aarch64": Machine(audit_arch=0xC00000B7, numbers=syscalls.AARCH64),
}


class UnsupportedMachineError(Exception):
    """There is no system call table for this processor."""


@dataclass(frozen=True)
class ArgumentRule:
    """Judges a call by the low 32 bits of one argument; `refusal` is the errno otherwise.

    Exactly one of the three is set: the argument must be one of `one_of`, must be none of
    `none_of`, or must have none of the bits of `without_bits`.
    """

    argument: int
    refusal: int
    one_of: tuple[int, ...] = ()
    none_of: tuple[int, ...] = ()
    without_bits: int = 0


ARGUMENT_RULES: Final[Mapping[str, ArgumentRule]] = {
    "clone": ArgumentRule(0, errno.EPERM, without_bits=_NAMESPACE_FLAGS),
    "socket": ArgumentRule(0, errno.EAFNOSUPPORT, one_of=(_AF_UNIX, _AF_INET, _AF_INET6)),
    "socketpair": ArgumentRule(0, errno.EAFNOSUPPORT, one_of=(_AF_UNIX,)),
    "ioctl": ArgumentRule(1, errno.EPERM, none_of=(_TIOCSTI, _TIOCLINUX, _TIOCSETD)),
    "personality": ArgumentRule(0, errno.EPERM, one_of=_PERSONALITIES),
}


def build_filter(*, machine: str | None = None, without: frozenset[str] = frozenset()) -> bytes:
    """The filter as an array of `struct sock_filter`, which is what `bwrap --seccomp` reads.

    `without` names calls to refuse besides; used where memory that belongs to no process would
    escape the only bound there is.
    """
    name = machine or platform.machine()
    if name not in MACHINES:
        raise UnsupportedMachineError(f"no system call table for {name}; known: {sorted(MACHINES)}")
    target = MACHINES[name]
    allowed = {call: nr for call, nr in target.numbers.items() if call not in without}
    conditional = {
        nr: ARGUMENT_RULES[call] for call, nr in allowed.items() if call in ARGUMENT_RULES
    }
    plain = sorted(nr for nr in allowed.values() if nr not in conditional)

    program = _Program()
    program.load(_OFFSET_ARCH)
    program.jump(_JUMP_EQUAL, target.audit_arch, when_true=1, when_false=0)
    program.answer(_RET_KILL_PROCESS)
    program.load(_OFFSET_NUMBER)
    for number, rule in sorted(conditional.items()):
        block = _argument_block(rule)
        program.jump(_JUMP_EQUAL, number, when_true=0, when_false=len(block))
        program.extend(block)
    program.extend(_range_search(_as_ranges(plain)))
    return program.encode()


class _Program:
    def __init__(self) -> None:
        self._lines: list[tuple[int, int, int, int]] = []

    def __len__(self) -> int:
        return len(self._lines)

    def load(self, offset: int) -> None:
        self._lines.append((_LOAD_WORD, 0, 0, offset))

    def jump(self, kind: int, value: int, *, when_true: int, when_false: int) -> None:
        if max(when_true, when_false) > 255:
            raise ValueError("a conditional jump reaches 255 instructions at most")
        self._lines.append((kind, when_true, when_false, value))

    def jump_always(self, distance: int) -> None:
        self._lines.append((_JUMP_ALWAYS, 0, 0, distance))

    def answer(self, action: int) -> None:
        self._lines.append((_RETURN, 0, 0, action))

    def extend(self, other: _Program) -> None:
        self._lines.extend(other._lines)

    def encode(self) -> bytes:
        return b"".join(struct.pack("=HBBI", *line) for line in self._lines)


def _argument_block(rule: ArgumentRule) -> _Program:
    block = _Program()
    block.load(_OFFSET_ARGUMENTS + 8 * rule.argument)
    refuse = _RET_ERRNO | rule.refusal
    if rule.without_bits:
        block.jump(_JUMP_SET, rule.without_bits, when_true=0, when_false=1)
        block.answer(refuse)
        block.answer(_RET_ALLOW)
        return block
    values = rule.one_of or rule.none_of
    for position, value in enumerate(values):
        block.jump(_JUMP_EQUAL, value, when_true=len(values) - position, when_false=0)
    on_miss, on_hit = (refuse, _RET_ALLOW) if rule.one_of else (_RET_ALLOW, refuse)
    block.answer(on_miss)
    block.answer(on_hit)
    return block


def _as_ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted numbers as half-open intervals."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return ranges


def _range_search(ranges: Sequence[tuple[int, int]]) -> _Program:
    """A binary search, so that every call costs a handful of instructions."""
    tree = _Program()
    if len(ranges) == 1:
        first, end = ranges[0]
        tree.jump(_JUMP_GREATER_EQUAL, first, when_true=0, when_false=2)
        tree.jump(_JUMP_GREATER_EQUAL, end, when_true=1, when_false=0)
        tree.answer(_RET_ALLOW)
        tree.answer(_RET_ERRNO | errno.ENOSYS)
        return tree
    middle = len(ranges) // 2
    lower, upper = _range_search(ranges[:middle]), _range_search(ranges[middle:])
    tree.jump(_JUMP_GREATER_EQUAL, ranges[middle][0], when_true=0, when_false=1)
    tree.jump_always(len(lower))
    tree.extend(lower)
    tree.extend(upper)
    return tree
