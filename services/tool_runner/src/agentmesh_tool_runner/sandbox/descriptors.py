"""The descriptors that one start of a sandbox needs, closed together when it is under way."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from .execution import LocalExecution
from .model import ExecutionSpec


class Descriptors:
    """Descriptors of one start: all are closed at the end but those that are kept."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()

    def pipe(self) -> tuple[int, int]:
        read, write = os.pipe2(os.O_CLOEXEC)
        self._open |= {read, write}
        return read, write

    def memory(self, data: bytes) -> int:
        descriptor = os.memfd_create("input", os.MFD_CLOEXEC)
        self._open.add(descriptor)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def stdin(self, spec: ExecutionSpec) -> tuple[int, int | None]:
        """What the program reads, and where more can be written if it stays open."""
        if spec.keep_stdin_open:
            read, write = self.pipe()
            os.set_blocking(write, False)
            return read, write
        if spec.stdin:
            return self.memory(spec.stdin), None
        descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._open.add(descriptor)
        return descriptor, None

    def link(self) -> tuple[int, socket.socket]:
        """A descriptor to speak to the service by, and the service's end, which is kept."""
        ours, theirs = socket.socketpair()
        self._open.add(theirs.fileno())
        return theirs.detach(), ours

    def keep(self, *descriptors: int) -> None:
        self._open -= set(descriptors)


@dataclass(frozen=True)
class Streams:
    """The standard streams of a program: `theirs` for it, the rest for the service."""

    theirs: tuple[int, int, int]
    stdout: int
    stderr: int
    feed: int | None
    link: socket.socket | None

    @classmethod
    def open(cls, descriptors: Descriptors, spec: ExecutionSpec) -> Streams:
        """As the program wants them; none is kept yet."""
        stdin, feed = descriptors.stdin(spec)
        link = None
        if spec.terminal is not None:
            stdin, link = descriptors.link()
        stdout, stdout_end = descriptors.pipe()
        stderr, stderr_end = descriptors.pipe()
        return cls((stdin, stdout_end, stderr_end), stdout, stderr, feed, link)

    def attach(self, descriptors: Descriptors, execution: LocalExecution) -> None:
        """Gives the service's ends to the execution."""
        descriptors.keep(self.stdout, self.stderr, *(() if self.feed is None else (self.feed,)))
        if self.link is not None:
            execution.attach_terminal(self.link)
        execution.attach_pipes(self.stdout, self.stderr, self.feed)
