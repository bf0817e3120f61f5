"""The resident agent: the first process of every container, spoken to over its standard streams.

Standard library and modules of the sandbox package only, for it runs on the image's own Python. It
runs one program at a time. The program gets pipes of its own, never the agent's descriptors; the
agent is the first process of its pid namespace (no signal from inside reaches it) and not dumpable
(nobody inside may trace it, read its memory or open its descriptors), so nothing that a program
writes can become a frame. When the standard input ends, because the service left or died, the
agent ends, and the kernel ends the container with it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import sys
import time
from collections import deque
from typing import Any, NoReturn

from agentmesh_tool_runner.sandbox import kernel

from .become import become
from .counters import Counters, processes
from .frames import Frames, frame
from .inside import (
    INPUT,
    TEMPORARY,
    WORKSPACE,
    empty,
    is_full,
    kill_all,
    lay_input,
    reap_all,
    resize,
)

_READ = 64 * 1024
_HELD = 128 * 1024
_USAGE_SECONDS = 0.05


class Program:
    """The running program, as the agent holds it. `terminal` is the master of its PTY, or -1."""

    def __init__(self, pid: int, outputs: dict[int, int], feed: int, before: dict[str, float]):
        self.pid = pid
        self.outputs = outputs
        self.feed = feed
        self.before = before
        self.terminal = -1
        self.waiting: deque[bytes] = deque()
        self.close_when_fed = False
        self.status: int | None = None
        self.largest = 0
        self.begun = True
        self.reading = False
        self.last_fed = b""

    def foreground(self) -> int:
        """The process group to signal."""
        own = os.getpgid(self.pid)
        return (os.tcgetpgrp(self.terminal) or own) if self.terminal >= 0 else own

    def end_of_input(self) -> bytes:
        """What a terminal's reader takes for that: within a line the first only ends the line."""
        within_line = self.last_fed not in (b"", b"\n", b"\r", b"\x04")
        return b"\x04" * (2 if within_line else 1)


class Agent:
    """The loop: frames come in, the program is served, frames go out."""

    def __init__(self, *, guarded: bool) -> None:
        self.guarded = guarded
        self.poll = select.poll()
        self.frames = Frames()
        self.outgoing: deque[memoryview] = deque()
        self.held = 0
        self.counters = Counters()
        self.held_at_first = 0
        self.program: Program | None = None
        self.next_usage = 0.0
        self.root = os.open(WORKSPACE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def serve(self) -> NoReturn:
        """Serves until the standard input ends."""
        os.umask(0o022)
        for descriptor in (0, 1):
            os.set_blocking(descriptor, False)
        wake_up, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.poll.register(0, select.POLLIN)
        self.poll.register(wake_up, select.POLLIN)
        self.say({"hello": list(sys.version_info[:3]), "python": sys.executable, "uid": os.getuid(),
                  "exact": self.counters.exact, "first": os.getpid() == 1})  # fmt: skip
        self.held_at_first = self.counters.held()
        while True:
            for descriptor, events in self.poll.poll(self.patience()):
                if descriptor == 0:
                    self.listen()
                elif descriptor == 1:
                    self.flush()
                elif descriptor == wake_up:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_up, 4096)
                    self.reap()
                else:
                    self.move(descriptor, events)
            self.tell_usage()

    def patience(self) -> float | None:
        if self.program is None:
            return None
        return max(1.0, (self.next_usage - time.monotonic()) * 1000)

    def say(self, header: dict[str, Any], payload: bytes = b"") -> None:
        data = frame(header, payload)
        self.outgoing.append(memoryview(data))
        self.held += len(data)
        self.flush()

    def flush(self) -> None:
        try:
            while self.outgoing:
                first = self.outgoing[0]
                written = os.write(1, first)
                self.held -= written
                if written < len(first):
                    self.outgoing[0] = first[written:]
                else:
                    self.outgoing.popleft()
        except BlockingIOError:
            self.poll.register(1, select.POLLOUT)
        except OSError:
            os._exit(0)
        else:
            with contextlib.suppress(KeyError):
                self.poll.unregister(1)
        if self.program is not None and self.program.reading != (self.held < _HELD):
            self.choose(self.program)

    def choose(self, program: Program) -> None:
        """Output is read while what waits to be sent is little: so a slow reader slows it down."""
        program.reading = self.held < _HELD
        for descriptor in program.outputs:
            if program.reading:
                self.poll.register(descriptor, select.POLLIN)
            else:
                with contextlib.suppress(KeyError):
                    self.poll.unregister(descriptor)

    def listen(self) -> None:
        try:
            data = os.read(0, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            os._exit(0)
        for header, payload in self.frames.feed(data):
            self.obey(header, payload)

    def obey(self, header: dict[str, Any], payload: bytes) -> None:
        do, program = header["do"], self.program
        if do == "start":
            self.start(header, payload)
        elif do == "call":
            self.call(header, payload)
        elif program is None:
            return
        elif do == "stdin":
            program.waiting.append(payload)
            program.close_when_fed = program.close_when_fed or header["close"]
            self.feed_program()
        elif do == "kill":
            kill_all()
        elif do == "signal" and program.status is None:
            with contextlib.suppress(OSError):
                os.killpg(program.foreground(), header["number"])
        elif do == "resize" and program.terminal >= 0:
            resize(program.terminal, header["rows"], header["columns"])

    def call(self, header: dict[str, Any], payload: bytes) -> None:
        """An operation on the workspace, for the service."""
        try:
            codec = importlib.import_module(header["codec"])
            answer, payload = codec.perform(self.root, header, payload)
        except BaseException as error:
            answer, payload = {"error": type(error).__name__, "text": str(error)}, b""
        self.say({"answer": header["call"], **answer}, payload)

    def start(self, header: dict[str, Any], payload: bytes) -> None:
        before = self.counters.read()
        rest = lay_input(header["files"], payload)
        terminal, far = os.openpty() if header["terminal"] else (-1, -1)
        if terminal >= 0:
            resize(terminal, *header["terminal"])
            ends, outputs, feed = [far, far, far], {terminal: 1}, os.dup(terminal)
        else:
            stdin, out, err = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
            ends, outputs, feed = [stdin[0], out[1], err[1]], {out[0]: 1, err[0]: 2}, stdin[1]
        trouble, report = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            become(header, ends, report, guarded=self.guarded)
        for descriptor in {report, *ends}:
            os.close(descriptor)
        program = self.program = Program(pid, outputs, feed, before)
        program.begun = os.read(trouble, 1) == b""
        os.close(trouble)
        program.terminal = terminal
        for descriptor in (feed, *outputs):
            os.set_blocking(descriptor, False)
        program.waiting.append(rest)
        program.close_when_fed = not header["keep_stdin"]
        self.next_usage = time.monotonic() + _USAGE_SECONDS
        self.feed_program()
        self.choose(program)
        self.reap()

    def feed_program(self) -> None:
        program = self.program
        if program is None or program.feed < 0:
            return
        with contextlib.suppress(KeyError):
            self.poll.unregister(program.feed)
        try:
            while program.waiting:
                data = program.waiting[0]
                written = os.write(program.feed, data) if data else 0
                if written:
                    program.last_fed = data[written - 1 : written]
                    self.say({"took": written})
                program.waiting[0] = data[written:]
                if not program.waiting[0]:
                    program.waiting.popleft()
        except BlockingIOError:
            self.poll.register(program.feed, select.POLLOUT)
            return
        except OSError:
            self.close_feed(program)
            self.say({"deaf": True})
            return
        if program.close_when_fed:
            if program.terminal >= 0:
                with contextlib.suppress(OSError):
                    os.write(program.feed, program.end_of_input())
            self.close_feed(program)

    def close_feed(self, program: Program) -> None:
        if program.feed >= 0:
            with contextlib.suppress(KeyError):
                self.poll.unregister(program.feed)
            os.close(program.feed)
            program.feed = -1

    def move(self, descriptor: int, events: int) -> None:
        program = self.program
        if program is None:
            return
        if descriptor == program.feed:
            self.feed_program()
        elif descriptor in program.outputs:
            self.read_output(program, descriptor)

    def read_output(self, program: Program, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _READ)
        except BlockingIOError:
            return
        except OSError:  # a terminal that nobody has open any more
            data = b""
        if data:
            self.say({"out": program.outputs[descriptor]}, data)
            return
        with contextlib.suppress(KeyError):
            self.poll.unregister(descriptor)
        del program.outputs[descriptor]
        if descriptor != program.terminal:
            os.close(descriptor)
        self.finish()

    def reap(self) -> None:
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if self.program is not None and pid == self.program.pid:
                self.program.status = status
                self.program.largest = used.ru_maxrss * 1024
                kill_all()
        self.finish()

    def finish(self) -> None:
        """Once the program is dead, all that it left is, and its output has been read."""
        program = self.program
        if program is None or program.status is None or program.outputs:
            return
        self.close_feed(program)
        if program.terminal >= 0:
            # Not before its end: a program that had closed its side first would be hung up on.
            os.close(program.terminal)
        kill_all()
        reap_all()
        code = os.waitstatus_to_exitcode(program.status)
        told = {"code": (code if code >= 0 else 128 - code) if program.begun else None}
        self.program = None
        self.say({"ended": True, **told, "full": is_full(), "usage": self.used(program)})
        emptied = [empty(folder) for folder in (*TEMPORARY, INPUT)]
        clean = all(emptied) and not processes()
        self.say({"idle": clean, "held": self.counters.held() - self.held_at_first})

    def used(self, program: Program) -> dict[str, float]:
        """What the program used; where an earlier one went higher, its peak is the process's."""
        now = self.counters.read()
        told = {name: now[name] - program.before[name] for name in ("cpu", "kills", "refusals")}
        rose = now["peak"] > program.before["peak"]
        return told | {"peak": now["peak"] if rose else program.largest}

    def tell_usage(self) -> None:
        if self.program is not None and time.monotonic() >= self.next_usage:
            self.next_usage = time.monotonic() + _USAGE_SECONDS
            self.say({"usage": self.used(self.program)})


def main() -> NoReturn:
    """The agent of a container that runs programs (`cell`), or only keeps files (`keeper`)."""
    guarded = sys.argv[2] == "cell"
    if guarded:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    Agent(guarded=guarded).serve()
