"""Runs attacks and prints how each ended, a JSON object a line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys

from . import (
    files,
    kernel,
    lifecycle,
    namespaces,
    network,
    paths,
    processes,
    resources,
    secrets,
)
from .attack import ATTACKS, Attack, NotHereError, StoppedError

MODULES = (files, kernel, lifecycle, namespaces, network, paths, processes, resources, secrets)
_SECONDS = 20
_INTERESTING = 500


def main() -> None:
    """Several names: each in a child of its own. One name after `alone`: in this process.

    A name that is no attack's is only said.
    """
    if sys.argv[1] == "alone":
        answer, told = _try(ATTACKS[sys.argv[2]])
        print(_line(sys.argv[2], answer, told), flush=True)
        sys.exit(0 if answer == "through" else 1)
    for name in sys.argv[1:]:
        if name not in ATTACKS:
            print(name)
            continue
        print(_line(name, *_in_child(ATTACKS[name])), flush=True)


def _line(name: str, answer: str, told: str) -> str:
    return json.dumps({"name": name, "answer": answer, "told": told[:_INTERESTING]})


def _try(attack: Attack) -> tuple[str, str]:
    try:
        return "through", attack.run()
    except NotHereError as error:
        return "not here", str(error)
    except StoppedError as error:
        return str(error), ""
    except MemoryError:
        print("MemoryError", file=sys.stderr)
        return "ENOMEM", ""
    except OSError as error:
        print(error, file=sys.stderr)
        return errno.errorcode.get(error.errno or 0, type(error).__name__), str(error)


def _in_child(attack: Attack) -> tuple[str, str]:
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        answer = ("crashed", "")
        with contextlib.suppress(BaseException):
            os.setsid()
            signal.alarm(_SECONDS)
            try:
                answer = _try(attack)
            except Exception as error:
                answer = ("crashed", repr(error))
            os.write(writable, json.dumps(answer).encode())
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as told:
        line = told.readline()
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return signal.Signals(-code).name, ""
    first, second = json.loads(line)
    return first, second
