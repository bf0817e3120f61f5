"""The resident: a process that stays in a sandbox and forks each program that runs there.

It forks the next one ahead, while nothing runs, so that no caller waits for that.

Standard library only, one thread; runs inside, on the sandbox's own Python, whose start it saves
each program. It is the first process of its pid namespace: no program can signal it, and when the
program's first process ends, one call kills whatever is left. It is not dumpable: no program can
look into it. It keeps the two capabilities over the sandbox's own namespaces that its children need
to get private temporary folders, and lose before they become a program.

Each message on its SOCK_SEQPACKET starts a program, and comes with descriptors: stdin, stdout,
stderr, the plan (see `resident_child`), and for an interpreter its control socket. When all of the
program's processes are dead, `{"code": code, "last": …}` is the answer, where 128 + n stands for
signal n and null for a program that could not be started; the last one of a resident is its last.
`{"clear": true}` follows when its temporary files are gone, too.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

from . import kernel, resident_child, resident_python

_MESSAGE_BYTES = 4096
_LIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


@dataclass
class _Running:
    pid: int
    report: int
    """Readable end of a pipe: anything in it means that the program could not be started."""
    start: socket.socket
    """Tells it to become the program."""
    mounts: int = -1
    """Its mount namespace, while it is the program."""

    def hold_mounts(self) -> None:
        """Has them go when this says so, and not with its last process.

        The kernel waits for all processors before it lets go of mounts, which is most of the time
        that the end of a short program takes: whoever waits for that need not wait for this.
        """
        # One that hides itself has its mounts end with it, as they would.
        with contextlib.suppress(OSError):
            self.mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def let_go_of_mounts(self) -> None:
        if self.mounts >= 0:
            os.close(self.mounts)

    def close(self) -> None:
        self.start.close()
        os.close(self.report)


class Resident:
    """Serves one channel until it is closed or a program has changed what it may not."""

    def __init__(
        self,
        channel: socket.socket,
        steps: resident_child.Steps,
    ) -> None:
        self.channel = channel
        self.steps = steps
        self.ahead: _Running | None = None
        self.running: _Running | None = None
        self.normal: tuple[Any, ...] = ()

    def serve(self) -> NoReturn:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        wake_up, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        # The only signal that has a handler, and so the only one that programs can send.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        poll.register(wake_up, select.POLLIN)
        self.normal = _condition()
        # What is there now is never collected, so that forked programs share its memory.
        gc.collect()
        gc.freeze()
        self.ahead = self.fork()
        self.send({"ready": os.getpid()})
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self.channel.fileno():
                    self.receive()
                    continue
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_up, 4096)
                self.reap()

    def send(self, message: dict[str, Any]) -> None:
        try:
            self.channel.send(json.dumps(message).encode())
        except OSError:
            os._exit(1)

    def receive(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self.channel, _MESSAGE_BYTES, 8)
        if not data:
            os._exit(0)
        self.run(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def run(self, descriptors: list[int]) -> None:
        child, self.ahead = self.ahead or self.fork(), None
        try:
            socket.send_fds(child.start, [b"run"], descriptors)
        except OSError:
            # It has died meanwhile, which nothing that runs here could bring about.
            child.close()
            child = self.fork()
            socket.send_fds(child.start, [b"run"], descriptors)
        child.start.close()
        child.hold_mounts()
        self.running = child

    def fork(self) -> _Running:
        """A child that waits to become a program."""
        report_read, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            resident_child.wait(theirs, report, self.steps)
        os.close(report)
        theirs.close()
        return _Running(pid, report_read, ours)

    def reap(self) -> None:
        """Takes leave of the dead; with the program's first process all others die."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self.running is not None and pid == self.running.pid:
                self.end(self.running, os.waitstatus_to_exitcode(status))
            elif self.ahead is not None and pid == self.ahead.pid:
                self.ahead.close()
                self.ahead = self.fork()

    def end(self, running: _Running, code: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # all in this pid namespace but its first
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        self.running = None
        failed = _has_anything(running.report)
        os.close(running.report)
        told = code if code >= 0 else 128 - code
        altered = _condition() != self.normal
        self.send({"code": None if failed else told, "last": altered})
        if altered:
            os._exit(1)
        running.let_go_of_mounts()
        self.send({"clear": True})
        self.ahead = self.fork()


def _has_anything(pipe: int) -> bool:
    try:
        return os.read(pipe, 1) != b""
    except BlockingIOError:
        return False


def _condition() -> tuple[Any, ...]:
    """What a process of the same user could change here from outside."""
    return (
        [resource.getrlimit(limit) for limit in _LIMITS],
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getscheduler(0),
        sorted(os.sched_getaffinity(0)),
        os.getpgid(0),
    )


def main(bare: frozenset[str]) -> NoReturn:
    """Serves the channel and loads the filter whose descriptors are the first arguments.

    The others are bytes and files of a temporary folder. `bare` names the modules that a bare
    interpreter has loaded.
    """
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    filter_descriptor = int(sys.argv[2])
    size = os.fstat(filter_descriptor).st_size
    seccomp_filter = os.pread(filter_descriptor, size, 0)
    os.close(filter_descriptor)
    sys.path[:] = [path for path in sys.path if path != sys.path[0]]
    bareness = resident_python.Bareness.besides(bare)
    sizes = int(sys.argv[3]), int(sys.argv[4])
    steps = resident_child.Steps.of(seccomp_filter, os.uname().machine, sizes, bareness)
    Resident(channel, steps).serve()
