"""A program with a terminal: a real one, sized, controlling, and of the sandbox's own devpts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from agentmesh_tool_runner.sandbox.backend import Execution, Workspace
from agentmesh_tool_runner.sandbox.local import LocalBackend
from agentmesh_tool_runner.sandbox.model import (
    INPUT_DIRECTORY,
    EndReason,
    ExecutionSpec,
    Output,
    Stream,
    TerminalSize,
)

from .conftest import LIMITS, collect

SPEC = ExecutionSpec(
    ["/bin/sh"], keep_stdin_open=True, limits=LIMITS, terminal=TerminalSize(rows=30, columns=100)
)


class Screen:
    """What a program writes, read as far as a test wants it."""

    def __init__(self, output: AsyncIterator[Output]) -> None:
        self._output = output
        self._unread = b""

    async def until(self, wanted: bytes) -> bytes:
        """What comes up to `wanted`, which has to come."""
        while wanted not in self._unread:
            piece = await anext(self._output, None)
            if piece is None:
                pytest.fail(f"never {wanted!r}, but {self._unread!r}")
            assert piece.stream is Stream.STDOUT
            self._unread += piece.data
        seen, _, self._unread = self._unread.partition(wanted)
        return seen + wanted

    async def rest(self) -> bytes:
        """Everything to the end."""
        return self._unread + b"".join([piece.data async for piece in self._output])


async def start(workspace: Workspace, backend: LocalBackend, code: str) -> tuple[Execution, Screen]:
    argv = [backend.python, f"{INPUT_DIRECTORY}/main.py"]
    execution = await workspace.execute(replace(SPEC, argv=argv, files={"main.py": code.encode()}))
    return execution, Screen(execution.output())


async def test_a_shell_on_a_terminal(workspace: Workspace) -> None:
    """Its size is told, its name is one of the sandbox's own, and the shell controls its jobs."""
    execution = await workspace.execute(SPEC)
    screen = Screen(execution.output())
    await execution.write_stdin(b"PS1=; stty size; tty; set -m && echo jobs''work; echo x >&2\n")
    seen = await screen.until(b"x\r\n")
    assert b"30 100\r\n" in seen
    assert b"/dev/pts/0\r\n" in seen
    assert b"jobswork\r\n" in seen
    execution.resize(TerminalSize(rows=12, columns=34))
    await execution.write_stdin(b"stty size\n")
    await screen.until(b"12 34\r\n")
    await execution.write_stdin(b"exit 7")
    await execution.write_stdin(b"\n", close=True)
    await screen.rest()
    assert (await execution.outcome()).exit_code == 7


async def test_programs_are_told_of_a_new_size(workspace: Workspace, backend: LocalBackend) -> None:
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGWINCH, lambda *_: print(*os.get_terminal_size(), flush=True))\n"
        "print('ready', flush=True)\nwhile True: signal.pause()"
    )
    execution, screen = await start(workspace, backend, code)
    await screen.until(b"ready")
    execution.resize(TerminalSize(rows=5, columns=66))
    await screen.until(b"66 5\r\n")
    execution.cancel()
    assert (await execution.outcome()).reason is EndReason.CANCELLED


@pytest.mark.parametrize("text", [b"a line\n", b"no whole line"])
async def test_the_end_of_input_is_what_terminals_have(workspace: Workspace, text: bytes) -> None:
    spec = replace(SPEC, argv=["/bin/cat"], stdin=text, keep_stdin_open=False)
    ended = await collect(workspace, spec)
    assert ended.outcome.exit_code == 0
    # Once as echo, once as what cat wrote.
    assert ended.stdout.count(text.decode().strip()) == 2


async def test_signals_go_to_the_foreground(workspace: Workspace) -> None:
    """By the keyboard and by a call: the job dies, the shell that waits for it does not."""
    execution = await workspace.execute(SPEC)
    screen = Screen(execution.output())
    job = b"sh -c 'echo go''ing; exec sleep 600'; echo sta''tus $?\n"
    await execution.write_stdin(b"set -m; PS1='at''once> '\n")
    await screen.until(b"atonce> ")
    for interrupt, status in ((b"\x03", b"130"), (b"", b"143")):
        await execution.write_stdin(job)
        await screen.until(b"going\r\n")
        if interrupt:
            await execution.write_stdin(interrupt)
            await screen.until(b"atonce> ")
            await execution.write_stdin(b"echo sta''tus $?\n")
        else:
            execution.send_signal(15)
        await screen.until(b"status " + status)
        await screen.until(b"atonce> ")
    await execution.write_stdin(b"exit\n")
    await screen.rest()
    assert (await execution.outcome()).reason is EndReason.EXITED


async def test_nobody_types_into_the_terminal_by_itself(
    workspace: Workspace, backend: LocalBackend
) -> None:
    """TIOCSTI is refused, also with bits set that the kernel does not look at."""
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for request in (0x5412, 0x5412 | 1 << 32):
    print(libc.ioctl(0, ctypes.c_ulong(request), b"x"), os.strerror(ctypes.get_errno()))
"""
    _, screen = await start(workspace, backend, code)
    assert await screen.rest() == b"-1 Operation not permitted\r\n" * 2


async def test_what_is_no_program(workspace: Workspace) -> None:
    ended = await collect(workspace, replace(SPEC, argv=["no-such-program"]))
    assert ended.stdout == "no-such-program: No such file or directory\r\n"
    assert ended.outcome.exit_code == 127


async def test_input_for_a_program_that_has_ended(workspace: Workspace) -> None:
    execution = await workspace.execute(replace(SPEC, argv=["/bin/true"]))
    await execution.outcome()
    with pytest.raises(BrokenPipeError):
        await execution.write_stdin(b"x")


async def test_no_terminal_no_size(workspace: Workspace) -> None:
    execution = await workspace.execute(replace(SPEC, terminal=None))
    with pytest.raises(ValueError, match="no terminal"):
        execution.resize(TerminalSize(1, 1))
    execution.cancel()
    await execution.outcome()
