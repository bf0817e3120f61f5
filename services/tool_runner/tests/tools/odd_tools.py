"""Tools of a package that does everything a package should not, and some things it should."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Dict  # noqa: UP035  # as users write it

from agentmesh_tool_runner.extension import AsyncContext, Context, ToolFailed, tool
from pydantic import BaseModel, Field

calls = 0


class Point(BaseModel):
    """A place."""

    x: Annotated[int, Field(ge=0)]
    y: int = 0


class Sum(BaseModel):
    """Of points."""

    total: Point
    count: int


@tool
def custom_tool(query: str, options: Dict[str, Any] = None) -> str:  # type: ignore[assignment]  # noqa: RUF013, UP006  # as users write it
    """
    Custom tool for specialized functionality.

    Args:
        query: Input query
        options: Additional options

    Returns:
        Tool execution result
    """
    return f"Custom operation result: {query} {options}"


@tool(safe_to_repeat=True, cacheable=True, timeout=20, retries=1, concurrency=3)
async def add(points: list[Point], *, schema: Annotated[str, Field(description="S")] = "") -> Sum:
    """Adds points."""
    total = Point(x=sum(p.x for p in points), y=sum(p.y for p in points))
    return Sum(total=total, count=len(points))


@tool
def note(path: str, text: str, context: Context) -> list[str]:
    """Appends to a file of the conversation, and lists them all."""
    context.progress(f"writing {path}")
    context.log.warning("noted for %s", context.tool_call_id)
    context.files.write(path, text, append=True)
    assert context.files.read_text(path).endswith(text)
    assert 0 < context.remaining_seconds <= 60
    return [f"{entry.path}:{entry.size}" for entry in context.files.list()]


@tool
async def carry(path: str, context: AsyncContext) -> int:
    """Moves a large file to and fro, and removes it."""
    await context.files.write(path, b"x" * 9_000_000)
    await context.files.move(path, "moved")
    size = len(await context.files.read("moved"))
    await context.files.remove("moved")
    return size


@tool
def lead_out(path: str, context: Context) -> str:
    """Tries to read what is not of the conversation."""
    try:
        return context.files.read_text(path)
    except OSError as error:
        return type(error).__name__


@tool
def shout(lines: int) -> None:
    """Prints to wherever it can."""
    for number in range(lines):
        print("garbage", number)  # noqa: T201
    os.write(2, b"\xff\x00 raw\n")
    for name in ("__stdout__", "stdout"):
        setattr(sys, name, None)


@tool
def raises(kind: str) -> str:
    """Raises."""
    if kind == "exit":
        sys.exit(3)
    if kind == "words":
        raise Unspeakable
    if kind == "sorry":
        raise ToolFailed("there is no such book")
    raise ValueError(f"a secret of {kind}")


class Unspeakable(Exception):  # noqa: N818
    """An error without words."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@tool(safe_to_repeat=True)
def flaky(path: str, until: int, how: str = "raise") -> int:
    """Works at the so manieth time."""
    return _flaky(path, until, how)


@tool
def flaky_once(path: str, until: int, how: str = "raise") -> int:
    """The same, and not safe to repeat."""
    return _flaky(path, until, how)


def _flaky(path: str, until: int, how: str) -> int:
    file = Path(path)
    times = len(file.read_text()) + 1 if file.exists() else 1
    file.write_text("x" * times)
    if times < until:
        if how == "die":
            os._exit(7)
        if how == "retry":
            raise ToolFailed("not yet", retry=True)
        raise ConnectionError("not yet")
    return times


LIES: dict[str, Any] = {
    "shape": {"total": {"x": "one"}, "count": 1},
    "kind": 5,
    "surrogate": {"total": {"x": 1, "y": 2}, "count": 1, "\udc80": "\udc80"},
}


@tool
def lies(how: str) -> Sum:
    """Returns something else than it says."""
    return LIES.get(how, object())  # type: ignore[no-any-return]  # that is the lie


@tool
def anything(what: str):  # type: ignore[no-untyped-def]  # as users write it
    """Promises nothing."""
    if what == "deep":
        nested: Any = []
        for _ in range(200):
            nested = [nested]
        return {"nested": nested}
    if what == "nan":
        return float("nan")
    if what == "surrogate":
        return {"text": "\udc80"}
    return {"n": 3}


@tool
def huge(characters: int, structured: bool = False) -> Any:
    """Returns a lot."""
    return ["x" * characters] if structured else "a" + "x" * characters + "z"


@tool
def hang(how: str, marker: str) -> None:
    """Does not come back."""
    child = [sys.executable, "-c", "import time; time.sleep(600)", marker]
    subprocess.Popen(child, start_new_session=True)
    subprocess.Popen(child)
    if how == "signals":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    if how == "gil":
        ctypes.PyDLL(None).sleep(600)
    while True:
        time.sleep(600)


@tool
def dies(how: str) -> None:
    """Takes its process along."""
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(5)
    if how == "line":
        for descriptor in range(3, 50):
            try:
                os.write(descriptor, b"\xff\xff\xff\xff nonsense")
            except OSError:
                continue
        time.sleep(600)


@tool
def leak(mib: int) -> int:
    """Keeps memory."""
    kept.append(bytearray(mib * 1024 * 1024))
    return os.getpid()


kept: list[bytearray] = []


@tool
def environment() -> dict[str, str]:
    """What it sees."""
    return dict(os.environ)


@tool
def pid() -> int:
    """Of its process."""
    return os.getpid()


@tool
def spam(pause: float) -> int:
    """Leaves a thread behind that goes on printing."""
    end = time.monotonic() + pause + 1.5

    def print_on() -> None:
        while time.monotonic() < end:
            print("spam", flush=True)  # noqa: T201
            logging.warning("spam")

    threading.Thread(target=print_on, daemon=True).start()
    time.sleep(pause)
    return os.getpid()


def undeclared() -> None:
    """Not declared."""


@tool
def unhinted(a) -> str:  # type: ignore[no-untyped-def]  # as users write it
    """Has no hint."""
    return str(a)


@tool
def wordless(a: int) -> int:
    return a


@tool
def starred(*many: int) -> int:
    """Takes many."""
    return len(many)


@tool
def handles(a: threading.Lock) -> int:
    """Takes what no JSON is."""
    return 1


@tool(cacheable=True)
def contradicts(context: Context) -> int:
    """Takes a context and says that nothing else decides."""
    return 1


@tool
def wrong_context(context: AsyncContext) -> int:
    """Takes the context of coroutines."""
    return 1
