"""One running program of a local sandbox: its output, its limits over time, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from .launcher_client import Ended
from .model import EndReason, ExecutionSpec, Outcome, Output, ResourceUsage, Stream, TerminalSize
from .terminal import Terminal, is_hang_up

_PIPE_READ_BYTES: Final = 64 * 1024
# A program is held back where its reader has not taken so much yet, until half of it is gone.
_WAITING_BYTES: Final = 1024 * 1024
_TAIL_BYTES: Final = 4096
_DRAIN_SECONDS: Final = 2.0
_FULL_BYTES: Final = 16 * 1024


@dataclass(frozen=True)
class Measured:
    """What is known of the processes of one execution. None where nothing tells."""

    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    memory_kills: int = 0
    refused_processes: int = 0
    memory_exceeded: bool = False


class Meter(Protocol):
    """Measures the processes of one execution: by a control group, or by walking /proc."""

    counts_refusals: bool
    """True if `memory_kills` and `refused_processes` are exact."""

    def measure(self) -> Measured: ...

    def inner_started(self, pid: int) -> None:
        """Told the host pid of the sandbox's first process."""
        ...

    def next_check(self, spec: ExecutionSpec, measured: Measured) -> float:
        """Seconds after which a limit may have been passed."""
        ...

    async def release(self) -> None: ...


# What a program says last when the kernel refused it something that no counter tells.
_LAST_WORDS: Final[Mapping[EndReason, tuple[bytes, ...]]] = {
    EndReason.OUT_OF_MEMORY: (b"MemoryError", b"Cannot allocate memory", b"std::bad_alloc"),
    EndReason.PROCESS_LIMIT: (b"Resource temporarily unavailable", b"can't start new thread"),
}
_DISK_WORDS: Final = (b"No space left on device", b"File too large")
_SIGNAL_REASONS: Final[Mapping[int, EndReason]] = {
    signal.SIGXCPU: EndReason.CPU_TIMEOUT,
    signal.SIGXFSZ: EndReason.DISK_FULL,
}


class LocalExecution:
    """An execution whose processes run on this machine. Made by its backend."""

    def __init__(
        self,
        name: str,
        spec: ExecutionSpec,
        meter: Meter,
        *,
        kill: Callable[[], None],
        disk_is_full: Callable[[], bool],
    ) -> None:
        self.fresh_interpreter: bool | None = None
        self.drain_seconds = _DRAIN_SECONDS
        self._name = name
        self._spec = spec
        self._meter = meter
        self._kill = kill
        self._disk_is_full = disk_is_full
        self._loop = asyncio.get_running_loop()
        self._started_at = time.monotonic()
        self._queue: deque[Output] = deque()
        self._waiting_bytes = 0
        self._held_back = False
        self._arrived = asyncio.Event()
        self._open_pipes: dict[int, Stream] = {}
        self._written = {Stream.STDOUT: 0, Stream.STDERR: 0}
        self._kept = 0
        self._truncated = False
        self._tail = b""
        self._stopped: tuple[EndReason, str] | None = None
        self._ended: Ended | None = None
        self._over = asyncio.Event()
        self._outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._inner: int | None = None
        self._stdin: int | None = None
        self._terminal: Terminal | None = None
        self._writing = asyncio.Lock()

    @property
    def id(self) -> str:
        return self._name

    @property
    def finished(self) -> bool:
        return self._outcome.done()

    def attach_pipes(self, stdout: int, stderr: int, stdin: int | None) -> None:
        """Takes over the service's ends of the pipes and the clock's limit."""
        self._stdin = stdin
        self._open_pipe(stdout, Stream.STDOUT)
        self._open_pipe(stderr, Stream.STDERR)
        wall = self._spec.limits.wall_seconds
        self._timers.append(self._loop.call_later(wall, self.cancel, EndReason.WALL_TIMEOUT))
        self._check_later(Measured())

    def attach_terminal(self, link: socket.socket) -> None:
        """Takes over the socket by which the terminal's other end comes."""
        self._terminal = Terminal(link, lambda end: self._open_pipe(end, Stream.STDOUT))
        spec = self._spec
        if spec.stdin or not spec.keep_stdin_open:
            self._typing = self._loop.create_task(self._type(spec))

    async def _type(self, spec: ExecutionSpec) -> None:
        with contextlib.suppress(BrokenPipeError):
            await self.write_stdin(spec.stdin, close=not spec.keep_stdin_open)

    def _open_pipe(self, descriptor: int, stream: Stream) -> None:
        os.set_blocking(descriptor, False)
        self._open_pipes[descriptor] = stream
        if not self._held_back:
            self._loop.add_reader(descriptor, self._read, descriptor)

    def inner_started(self, pid: int) -> None:
        self._inner = pid
        self._meter.inner_started(pid)

    async def output(self) -> AsyncIterator[Output]:
        while True:
            while self._queue:
                piece = self._queue.popleft()
                self._waiting_bytes -= len(piece.data)
                if self._held_back and self._waiting_bytes < _WAITING_BYTES // 2:
                    self._let_go()
                yield piece
            if self._outcome.done():
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def outcome(self) -> Outcome:
        return await asyncio.shield(self._outcome)

    def cancel(self, reason: EndReason = EndReason.CANCELLED, detail: str = "") -> None:
        if self._stopped is None and self._ended is None:
            self._stopped = (reason, detail)
            self._kill()

    def send_signal(self, number: int) -> None:
        if self._inner is None or self._ended is not None:
            return
        with contextlib.suppress(OSError, IndexError):
            children = Path(f"/proc/{self._inner}/task/{self._inner}/children").read_text()
            foreground = self._terminal.foreground if self._terminal else None
            os.killpg(foreground or os.getpgid(int(children.split()[0])), number)

    def resize(self, size: TerminalSize) -> None:
        if self._terminal is None:
            raise ValueError("the execution has no terminal")
        self._terminal.resize(size)

    async def write_stdin(self, data: bytes, *, close: bool = False) -> None:
        async with self._writing:
            if self._terminal is not None:
                descriptor = await self._terminal.descriptor()
                await self._write(descriptor, data)
                if close:
                    await self._write(descriptor, self._terminal.end_of_input(data))
                return
            if self._stdin is None:
                raise BrokenPipeError("standard input is closed")
            await self._write(self._stdin, data)
            if close:
                self._close_stdin()

    async def _write(self, descriptor: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                await until_writable(descriptor, self._over)
                if self._ended is not None:
                    raise BrokenPipeError("the program has ended") from None
            except OSError as error:
                raise BrokenPipeError("nobody reads standard input") from error

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    def _read(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _PIPE_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if not is_hang_up(error):
                raise
            data = b""
        if not data:
            self._close_pipe(descriptor)
            self._finish_when_drained()
            return
        stream = self._open_pipes[descriptor]
        self._written[stream] += len(data)
        room = self._spec.limits.output_bytes - self._kept
        kept = data[:room] if room < len(data) else data
        if kept:
            self._kept += len(kept)
            self._queue.append(Output(stream, kept))
            self._waiting_bytes += len(kept)
            self._arrived.set()
            if self._waiting_bytes > _WAITING_BYTES and self._ended is None:
                self._hold_back()
            if stream is Stream.STDERR:
                self._tail = (self._tail + kept)[-_TAIL_BYTES:]
        if len(kept) < len(data):
            self._truncated = True
            self.cancel(EndReason.OUTPUT_LIMIT)
            # One that has ended meanwhile wrote too much all the same.
            self._stopped = self._stopped or (EndReason.OUTPUT_LIMIT, "")

    def _hold_back(self) -> None:
        self._held_back = True
        for descriptor in self._open_pipes:
            self._loop.remove_reader(descriptor)

    def _let_go(self) -> None:
        self._held_back = False
        for descriptor in self._open_pipes:
            self._loop.add_reader(descriptor, self._read, descriptor)

    def _close_pipe(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        del self._open_pipes[descriptor]

    def _check_later(self, measured: Measured) -> None:
        delay = self._meter.next_check(self._spec, measured)
        self._timers.append(self._loop.call_later(delay, self._check))

    def _check(self) -> None:
        self._timers = [timer for timer in self._timers if timer.when() > self._loop.time()]
        if self._ended is not None:
            return
        measured = self._meter.measure()
        if (measured.cpu_seconds or 0.0) >= self._spec.limits.cpu_seconds:
            self.cancel(EndReason.CPU_TIMEOUT)
        elif measured.memory_exceeded:
            self.cancel(EndReason.OUT_OF_MEMORY)
        else:
            self._check_later(measured)

    def ended(self, ended: Ended) -> None:
        """Told by the launcher once everything of the sandbox is dead, or lost."""
        self._ended = ended
        self._over.set()
        for timer in self._timers:
            timer.cancel()
        self._close_stdin()
        if self._terminal is not None:
            self._terminal.close()
        # What the pipes still hold is little, and nobody adds to it.
        self._let_go()
        # All writers are dead; a pipe that stays open even so is not waited for.
        self._timers = [self._loop.call_later(self.drain_seconds, self._drop_pipes)]
        self._finish_when_drained()

    def _drop_pipes(self) -> None:
        for descriptor in list(self._open_pipes):
            self._close_pipe(descriptor)
        self._finish_when_drained()

    def _finish_when_drained(self) -> None:
        if self._ended is None or self._open_pipes or self._outcome.done():
            return
        for timer in self._timers:
            timer.cancel()
        outcome = self._judge(self._ended, self._meter.measure())
        # Begun first, so that whoever waits for the end finds the sandbox free again.
        self._release = self._loop.create_task(self._meter.release())
        self._outcome.set_result(outcome)
        self._arrived.set()

    def _judge(self, ended: Ended, measured: Measured) -> Outcome:
        reason, detail = self._reason(ended.code, measured)
        code = ended.code if self._stopped is None else None
        by_signal = code - 128 if code is not None and 128 < code <= 128 + 64 else None
        usage = ResourceUsage(
            wall_seconds=time.monotonic() - self._started_at,
            cpu_seconds=max(measured.cpu_seconds or 0.0, ended.cpu_seconds),
            peak_memory_bytes=measured.peak_memory_bytes or ended.peak_bytes,
            stdout_bytes=self._written[Stream.STDOUT],
            stderr_bytes=self._written[Stream.STDERR],
        )
        return Outcome(
            reason=reason,
            exit_code=None if by_signal else code,
            signal=by_signal,
            usage=usage,
            output_truncated=self._truncated,
            detail=detail,
        )

    def _reason(self, code: int | None, measured: Measured) -> tuple[EndReason, str]:
        if self._stopped is not None:
            return self._stopped
        if code == 0:
            return EndReason.EXITED, ""
        if measured.memory_kills or measured.memory_exceeded:
            return EndReason.OUT_OF_MEMORY, ""
        if code is None:
            last_words = self._tail.decode(errors="replace").strip().splitlines()
            return EndReason.SANDBOX_LOST, last_words[-1] if last_words else "the sandbox died"
        if measured.refused_processes:
            return EndReason.PROCESS_LIMIT, ""
        if self._disk_is_full() or any(word in self._tail for word in _DISK_WORDS):
            return EndReason.DISK_FULL, ""
        if not self._meter.counts_refusals:
            for reason, words in _LAST_WORDS.items():
                if any(word in self._tail for word in words):
                    return reason, ""
        if code > 128:
            return _SIGNAL_REASONS.get(code - 128, EndReason.SIGNALED), ""
        return EndReason.EXITED, ""


async def until_writable(descriptor: int, or_event: asyncio.Event) -> None:
    """Waits until something can be written, or the event is set."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    waits = [asyncio.create_task(event.wait()) for event in (ready, or_event)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
        loop.remove_writer(descriptor)


def is_full(directory: int) -> bool:
    """True if the file system of this directory descriptor has no room for another file."""
    status = os.fstatvfs(directory)
    return status.f_bavail * status.f_frsize < _FULL_BYTES or status.f_ffree == 0
