"""A worker: imports the tools of one package and carries out one call at a time.

Started as `python -m` with its rules as JSON in the one argument. What it prints is output of the
call; what it says goes over a socket of its own. It dies with the service.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from agentmesh_tool_runner.extension.context import AsyncContext, AsyncFiles, Context
from agentmesh_tool_runner.extension.declared import ToolFailed
from agentmesh_tool_runner.tools.schemas import explain, violations

from .files_inside import RemoteFiles
from .frames import MAX_RESULT_CHARACTERS, packed, receive_frame
from .functions import Function, NoJsonError, UnusableToolError, described

_PR_SET_PDEATHSIG: Final = 1
_MAX_WORDS: Final = 2000
_MIB: Final = 1024 * 1024

Frame = dict[str, Any]


class Line:
    """The connection to the service. Whoever waits for an answer waits by its number."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._answers: dict[int, queue.SimpleQueue[Frame]] = {}
        self._numbers = 0
        self.calls: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self.call = 0
        threading.Thread(target=self._receive, name="line", daemon=True).start()

    def say(self, **frame: Any) -> None:
        """Sends a frame that belongs to the present call."""
        data = packed({"call": self.call, **frame})
        with self._sending:
            self._connection.sendall(data)

    def ask(self, **frame: Any) -> Frame:
        """Sends a frame and waits for its answer."""
        with self._sending:
            self._numbers += 1
            number = self._numbers
        answers = self._answers[number] = queue.SimpleQueue()
        try:
            self.say(number=number, **frame)
            return answers.get()
        finally:
            del self._answers[number]

    def _receive(self) -> None:
        while (frame := receive_frame(self._connection)) is not None:
            if frame["kind"] == "call":
                self.calls.put(frame)
            elif waiting := self._answers.get(frame["number"]):
                waiting.put(frame)
        os.killpg(0, signal.SIGKILL)


class _ToLine(logging.Handler):
    """The log of a tool goes to the log of the service."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises."""
        try:
            text = self.format(record)[:_MAX_WORDS]
            self._line.say(kind="log", level=record.levelno, text=text)
        except Exception:
            self.handleError(record)


class Worker:
    """The tools of a package, and the loop that its coroutines share."""

    def __init__(self, line: Line, functions: Mapping[str, Function]) -> None:
        self._line = line
        self._functions = functions
        self._runner = asyncio.Runner()
        self._streams = sys.stdout, sys.stderr
        self._folder = Path.cwd()
        self._log = logging.getLogger("agentmesh.tool")
        self._log.addHandler(_ToLine(line))
        self._log.setLevel(logging.INFO)
        self._log.propagate = False

    def serve(self) -> None:
        """Carries out calls, for ever."""
        while True:
            frame = self._line.calls.get()
            self._line.call = frame["call"]
            # What the call before may have changed for good.
            sys.stdout, sys.stderr = self._streams
            os.chdir(self._folder)
            done = self._carry_out(frame)
            for stream in (sys.stdout, sys.stderr):
                # A tool may have closed or replaced it.
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            used = resource.getrusage(resource.RUSAGE_SELF)
            self._line.say(
                kind="done",
                cpu_seconds=used.ru_utime + used.ru_stime,
                peak_bytes=_peak_bytes(),
                **done,
            )

    def _carry_out(self, frame: Frame) -> Frame:
        function = self._functions[frame["tool"]]
        try:
            call = function.bound(frame["arguments"], self._context(function, frame))
        except ValidationError as error:
            found = violations(error)
            text = explain(function.name, found)
            return {"failure": "arguments", "text": text, "detail": {"violations": found}}
        try:
            value = self._runner.run(call()) if function.is_async else call()
            text, detail = function.answer(value)
        except ToolFailed as failed:
            return {"failed": True, "retry": failed.retry, "text": _words(failed)}
        except NoJsonError as error:
            text = f"{function.name} ran, but its result is not what it promises: {error}"
            return {"failure": "output", "text": text}
        except BaseException as error:  # SystemExit, too, is an error of the tool
            return _raised(function.name, error)
        return _bounded(text, detail)

    def _context(self, function: Function, frame: Frame) -> Context | AsyncContext:
        files = RemoteFiles(self._line.ask)
        common: Frame = {
            "agent": frame["agent"],
            "tool_call_id": frame["tool_call_id"],
            "traceparent": frame["traceparent"],
            "deadline": time.monotonic() + frame["seconds"],
            "log": self._log,
            "say": lambda text: self._line.say(kind="progress", text=str(text)[:_MAX_WORDS]),
        }
        if function.is_async:
            return AsyncContext(**common, files=AsyncFiles(files))
        return Context(**common, files=files)


def _words(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_WORDS]
    except Exception:  # of a tool's own class
        return ""


def _raised(tool: str, error: BaseException) -> Frame:
    """Type and words for the model, the rest for the log."""
    words = _words(error)
    text = f"{tool} failed: {type(error).__name__}" + (f": {words}" if words else "")
    lines = traceback.format_exception(error, limit=-20)
    return {
        "failure": "raised",
        "text": text,
        "detail": {"type": type(error).__name__, "message": words},
        "log": "".join(lines)[-8 * _MAX_WORDS :],
        "unfit": isinstance(error, MemoryError),
    }


def _bounded(text: str, detail: Frame) -> Frame:
    if len(text) <= MAX_RESULT_CHARACTERS:
        return {"text": text, "detail": detail}
    half = MAX_RESULT_CHARACTERS // 2
    left_out = len(text) - 2 * half
    kept = f"{text[:half]}\n… {left_out} characters left out …\n{text[-half:]}"
    return {"text": kept, "truncated": True}


def load(package: str, names: Mapping[str, str]) -> tuple[dict[str, Function], dict[str, str]]:
    """The tools, and what is wrong with the others."""
    functions: dict[str, Function] = {}
    problems: dict[str, str] = {}
    offered = {
        e.name: e for e in distribution(package).entry_points if names.get(e.name) == e.value
    }
    for name in names:
        try:
            functions[name] = described(name, _loaded(offered[name]))
        except UnusableToolError as error:
            problems[name] = str(error)
    return functions, problems


def _loaded(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except BaseException as error:  # whatever a package does when it is imported
        raise UnusableToolError(
            f"its import failed: {type(error).__name__}: {_words(error)}"
        ) from None


def _bound_self(memory_bytes: int) -> None:
    """Limits of the process; it dies with the one that started it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _peak_bytes() -> int:
    """Most memory that this program has held; `ru_maxrss` also knows what the service held that
    started it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Serves the calls of one service."""
    rules = json.loads(sys.argv[1])
    _bound_self(rules["memory_bytes"])
    if os.getppid() != rules["parent"]:
        sys.exit("the service is gone")
    connection = socket.socket(fileno=rules["descriptor"])
    os.set_inheritable(rules["descriptor"], False)
    line = Line(connection)
    functions, problems = load(rules["package"], rules["tools"])
    specs = [function.spec() for function in functions.values()]
    line.say(kind="hello", tools=specs, problems=problems)
    Worker(line, functions).serve()


if __name__ == "__main__":
    main()
