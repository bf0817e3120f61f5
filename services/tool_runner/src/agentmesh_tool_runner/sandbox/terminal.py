"""A terminal of a sandbox: made inside, of the sandbox's own devpts; its other end comes out."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from .model import ExecutionSpec, TerminalSize

# Makes the terminal, hands its other end out by descriptor 0, and becomes the program in the same
# process: the terminal controls it, and its end is the program's own.
_PROGRAM: Final = """
import fcntl, os, socket, struct, sys, termios
ours, theirs = os.openpty()
fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *map(int, sys.argv[1:3]), 0, 0))
try:
    os.setsid()
except PermissionError:
    pass
fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
link = socket.socket(fileno=0)
socket.send_fds(link, [b"."], [ours])
link.detach()
for number in (0, 1, 2):
    os.dup2(theirs, number)
os.closerange(3, 256)
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as error:
    os.write(2, f"{sys.argv[3]}: {error.strerror}\\n".encode())
os._exit(127)
"""
_END_OF_FILE: Final = b"\x04"
_TIOCGPTN: Final = 0x80045430
_ENVIRONMENT: Final = {"TERM": "xterm-256color"}


def within(spec: ExecutionSpec, python: str) -> ExecutionSpec:
    """The program that gives the wanted one its terminal, if it wants one.

    Its descriptor 0 has to be the way for the other end.
    """
    size = spec.terminal
    if size is None:
        return spec
    argv = [python, "-I", "-S", "-c", _PROGRAM, str(size.rows), str(size.columns), *spec.argv]
    return replace(spec, argv=argv, environment=_ENVIRONMENT | dict(spec.environment))


class Terminal:
    """The service's end of a terminal, once it has come out of the sandbox."""

    def __init__(self, link: socket.socket, arrived: Callable[[int], None]) -> None:
        """`arrived` is given a descriptor of its own to read from."""
        self._link = link
        self._tell = arrived
        self._loop = asyncio.get_running_loop()
        self._descriptor: asyncio.Future[int] = self._loop.create_future()
        self._size: TerminalSize | None = None
        link.setblocking(False)
        self._loop.add_reader(link.fileno(), self._receive)

    async def descriptor(self) -> int:
        """Where input is written. Raises BrokenPipeError if the program ended before."""
        return await asyncio.shield(self._descriptor)

    def resize(self, size: TerminalSize) -> None:
        self._size = size
        if self._is_here:
            packed = struct.pack("HHHH", size.rows, size.columns, 0, 0)
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._descriptor.result(), termios.TIOCSWINSZ, packed)

    @property
    def foreground(self) -> int | None:
        """The process group in the foreground, as the host numbers it."""
        if not self._is_here:
            return None
        try:
            return os.tcgetpgrp(self._descriptor.result()) or None
        except OSError:
            return None

    def end_of_input(self, last: bytes) -> bytes:
        """What to write after `last`: within a line the first one only ends that."""
        within_line = bool(last) and not last.endswith((b"\n", b"\r", _END_OF_FILE))
        return _END_OF_FILE * (2 if within_line else 1)

    def close(self) -> None:
        """Hangs up."""
        self._drop_link()
        if self._is_here:
            os.close(self._descriptor.result())
            self._descriptor = self._loop.create_future()
        self._refuse()

    @property
    def _is_here(self) -> bool:
        return self._descriptor.done() and self._descriptor.exception() is None

    def _receive(self) -> None:
        try:
            _, descriptors, _, _ = socket.recv_fds(self._link, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            descriptors = []
        self._drop_link()
        if not descriptors or not _is_terminal(descriptors[0]):
            for descriptor in descriptors:
                os.close(descriptor)
            self._refuse()
            return
        os.set_blocking(descriptors[0], False)
        self._descriptor.set_result(descriptors[0])
        if self._size is not None:
            self.resize(self._size)
        self._tell(fcntl.fcntl(descriptors[0], fcntl.F_DUPFD_CLOEXEC, 3))

    def _refuse(self) -> None:
        if not self._descriptor.done():
            self._descriptor.set_exception(BrokenPipeError("the program has ended"))
            self._descriptor.exception()  # read, for nobody may ever wait for it

    def _drop_link(self) -> None:
        if self._link.fileno() >= 0:
            self._loop.remove_reader(self._link.fileno())
            self._link.close()


def _is_terminal(descriptor: int) -> bool:
    """True for the outer end of a pseudo-terminal: what comes out of a sandbox is looked at."""
    try:
        fcntl.ioctl(descriptor, _TIOCGPTN, array.array("i", [0]), True)
    except OSError:
        return False
    return True


def is_hang_up(error: OSError) -> bool:
    """True if it says that nothing inside has the terminal open any more."""
    return error.errno == errno.EIO
