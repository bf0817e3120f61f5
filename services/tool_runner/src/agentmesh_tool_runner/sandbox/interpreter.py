"""The service's side of a Python interpreter that keeps its variables between executions.

It is a program of a resident, which runs source after source in one `__main__`; see
`resident_python.interpret`. Nothing that it says is believed but that the source which runs now has
ended, for that source could say it too, and could end anyhow.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from .descriptors import Descriptors
from .launcher_client import Ended
from .resident_client import Resident, ResidentLostError, Told

_MESSAGE_BYTES = 4096
_MOST_UNTRUE = 64


class Interpreter:
    """One interpreter in a resident of its own. It runs one source at a time."""

    def __init__(self, resident: Resident) -> None:
        self.resident = resident
        self.turn = asyncio.Lock()
        """Held by whoever runs a source."""
        self.used = False
        self._number = 0
        self._untrue = 0
        self._nonce = ""
        self._ended: Told | None = None
        self._gone = False
        self._loop = asyncio.get_running_loop()
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._loop.add_reader(self._control.fileno(), self._receive)

    @property
    def alive(self) -> bool:
        """False once its variables are lost."""
        return not self._gone and not self.resident.lost

    def start(self, plan: bytes) -> None:
        """Starts it, by a plan for an interpreter. Raises ResidentLostError."""
        with Descriptors() as descriptors, self._theirs:
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                given = [nothing, nothing, nothing, descriptors.memory(plan)]
                self.resident.run([*given, self._theirs.fileno()], self._program_ended)
            finally:
                os.close(nothing)

    def run(
        self, streams: Sequence[int], source: bytes, environment: Mapping[str, str], ended: Told
    ) -> None:
        """Runs a source with these stdin, stdout and stderr; `ended` is told once.

        Its exit code is 1 after an uncaught exception. Raises ResidentLostError.
        """
        self._number += 1
        self._nonce = secrets.token_hex(16)
        told = {"source": source.decode(errors="replace"), "environment": dict(environment)}
        body = json.dumps(told).encode()
        request = {"run": self._number, "nonce": self._nonce, "bytes": len(body)}
        with Descriptors() as descriptors:
            given = [*streams, descriptors.memory(body)]
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], given)
            except OSError as error:
                raise ResidentLostError(str(error)) from error
        self.used = True
        self._ended = ended

    async def remove(self) -> None:
        """Kills it and waits until nothing of it is left."""
        self._close()
        await self.resident.remove()

    def _receive(self) -> None:
        try:
            data = self._control.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # Its end is told by the resident, when nothing of it is left.
            self._loop.remove_reader(self._control.fileno())
            return
        with contextlib.suppress(ValueError, RecursionError):
            message: Any = json.loads(data)
            if isinstance(message, dict) and message.get("done") == self._nonce:
                code = message.get("code")
                valid = type(code) is int and 0 <= code < 256
                self._tell(Ended(code if valid else 1, 0.0, 0))
                return
        # To read them costs the service what it costs a program to write them.
        self._untrue += 1
        if self._untrue > _MOST_UNTRUE:
            self.resident.kill()

    def _program_ended(self, ended: Ended) -> None:
        self._gone = True
        self._tell(ended)

    def _tell(self, ended: Ended) -> None:
        self._nonce = ""
        told, self._ended = self._ended, None
        if told is not None:
            told(ended)

    def _close(self) -> None:
        self._gone = True
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
