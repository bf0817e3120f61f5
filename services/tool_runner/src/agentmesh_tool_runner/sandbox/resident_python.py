"""Runs Python code in a forked interpreter as the interpreter itself would run it.

Standard library only. By now this process is the program: without capabilities, under the filter.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import contextlib
import gc
import json
import linecache
import os
import signal
import socket
import sys
import traceback
import types
from _io import _IOBase  # the base in C, whose check costs nothing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

_WORKSPACE: Final = "/workspace"
_MESSAGE_BYTES: Final = 4096
_OURS: Final = __name__.partition(".")[0]


@dataclass(frozen=True)
class Bareness:
    """What to hide so that an interpreter looks bare: modules of ours, and by their top-level names
    the others that were not there when it began."""

    ours: Mapping[str, types.ModuleType]
    """Kept: to free a module copies the pages of all that it holds."""
    others: Mapping[str, Sequence[str]]

    @classmethod
    def besides(cls, bare: frozenset[str]) -> Bareness:
        """`bare` names the modules that a bare interpreter has loaded."""
        ours, others = {}, dict[str, list[str]]()
        for name, module in sys.modules.items():
            top = name.partition(".")[0]
            if top == _OURS:
                ours[name] = module
            elif top not in bare:
                others.setdefault(top, []).append(name)
        return cls(ours, others)


def look_bare(bareness: Bareness) -> None:
    """Hides what the resident is; all else that it brought along `give_way` sees to."""
    for name in bareness.ours:
        del sys.modules[name]


def give_way(bareness: Bareness) -> None:
    """Lets modules of the workspace come before those of their name that the resident has loaded,
    as they would have come first; the others stay."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(_WORKSPACE):  # noqa: PTH208 - no paths are wanted, and each costs
            for name in bareness.others.get(entry.partition(".")[0], ()):
                sys.modules.pop(name, None)
    # No finder has looked there before, so that none remembers what was there.
    sys.path.insert(0, _WORKSPACE)


def rehearse() -> None:
    """Does what a script will need, so that the pages for it are copied before one is there."""
    main = _new_main("")
    path = os.path.realpath(os.path.abspath(os.devnull))  # noqa: PTH100 - as `run_script` does
    with open(path, "rb") as file:  # noqa: PTH123 - as `run_script` does
        source = file.read() + b"import sys\nprint('', end='', file=sys.stdout)\n"
    exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)  # noqa: S102 - nothing
    _flush()


def run_script(argv: Sequence[str]) -> NoReturn:
    """`python3 argv…` for a file of source."""
    path = os.path.abspath(argv[0])  # noqa: PTH100 - as the interpreter does
    sys.argv[:] = argv
    sys.orig_argv[:] = [sys.executable, *argv]
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))  # noqa: PTH120 - each path costs
    main = sys.modules["__main__"] = _new_main(path)

    def run() -> None:
        with open(path, "rb") as file:  # noqa: PTH123 - each path costs
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)  # noqa: S102 - what this is for

    _exit(_guarded(run))


def _new_main(path: str | None) -> types.ModuleType:
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if path is not None:
        main.__file__ = path
        main.__dict__["__cached__"] = None
    return main


def _guarded(run: Callable[[], None]) -> int:
    """Runs it; its exit code, negative for a signal, once its errors are printed."""
    try:
        run()
    except SystemExit as leaving:
        return _exit_code(leaving.code)
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        error.__traceback__ = trace
        own_hook = sys.excepthook is not sys.__excepthook__
        if not own_hook and "__file__" not in sys.modules["__main__"].__dict__:
            # The interpreter's own looks for source in files alone.
            traceback.print_exception(error)
        else:
            sys.excepthook(type(error), error, trace)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _exit_code(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


def _exit(code: int) -> NoReturn:
    """Ends as an interpreter does, but leaves what the resident had loaded as it is.

    To free that too would copy all of its memory, which is most of what a short program costs.
    """
    try:
        # Not imported here: what it does in each child, forked for threads or not, costs more than
        # all else that a short program does.
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()  # what the interpreter itself calls
        atexit._run_exitfuncs()
        _flush()
        # A thread that goes on, which only a daemon does by now, still needs them.
        if threading is None or threading.active_count() == 1:
            sys.modules["__main__"].__dict__.clear()
        gc.collect()
        for thing in gc.get_objects():
            with contextlib.suppress(Exception):
                if isinstance(thing, _IOBase) and not thing.closed:
                    thing.flush()
        _flush()
    finally:
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def interpret(descriptor: int) -> NoReturn:
    """Runs what comes over the control socket, one after the other, in one `__main__`.

    A message `{"run": number, "nonce": …, "bytes": n}` comes with stdin, stdout, stderr and a file
    of `{"source": text, "environment": variables}`; its end is told by `{"done": nonce, "code":
    code}`. The other side believes nothing here but that: whatever runs could have sent it.
    """
    control = socket.socket(fileno=descriptor)
    main = sys.modules["__main__"] = _new_main(None)
    sys.argv[:] = [""]
    sys.path.insert(0, "")
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 4)
        if not data:
            _exit(0)
        request = json.loads(data)
        for target, source in enumerate(descriptors[:3]):
            os.dup2(source, target)
        text = os.pread(descriptors[3], request["bytes"], 0)
        for each in descriptors:
            if each > 2:
                os.close(each)
        told = json.loads(text)
        os.environ.update(told["environment"])
        code = _interpret_one(told["source"], request["run"], main)
        control.send(json.dumps({"done": request["nonce"], "code": code}).encode())


def _interpret_one(source: str, number: int, main: types.ModuleType) -> int:
    name = f"<execution {number}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    left = False

    def run() -> None:
        nonlocal left
        tree = ast.parse(source, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        try:
            code = compile(tree, name, "exec", dont_inherit=True)
            exec(code, main.__dict__)  # noqa: S102 - what this is for
            if isinstance(last, ast.Expr):
                code = compile(ast.Expression(last.value), name, "eval", dont_inherit=True)
                sys.displayhook(eval(code, main.__dict__))  # noqa: S307 - what this is for
        except SystemExit:
            left = True
            raise

    code = _guarded(run)
    if left:
        _exit(code)
    _flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    for target in range(3):
        os.dup2(nothing, target)
    os.close(nothing)
    return 1 if code < 0 else code
