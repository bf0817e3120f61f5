"""The command as a process, on a mesh in the background and on a terminal."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

COMMAND = (sys.executable, "-m", "agentmesh_cli")
WITHOUT_MODEL = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("OPENAI_", "AGENTMESH_", "DEFAULT_MODEL"))
}


@dataclass(frozen=True)
class LocalMesh:
    """A mesh in the background, and the command that finds it by its data directory."""

    data_dir: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside that of these tests."""

    def __call__(self, *arguments: str, status: int = 0) -> str:
        done = self.try_run(*arguments)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stdout

    def try_run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *arguments, "--data-dir", str(self.data_dir)],
            env={**WITHOUT_MODEL, **self.environment},
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip

    def conversation(self) -> str:
        """The newest conversation's id."""
        found = json.loads(self("list", "--limit", "1", "--json"))
        return str(found[0]["conversation_id"])


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**WITHOUT_MODEL, "TERM": "xterm-256color", "COLUMNS": "120"},
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.shown = ""

    def read_until(self, text: str) -> None:
        """Reads until `text` is shown, or to the end if it is empty."""
        deadline = time.monotonic() + 120
        while not text or text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    data = os.read(self._master, 65536)
                except OSError:  # the other side is closed
                    data = b""
                if not data:
                    assert not text, f"{text!r} was not shown: {self.shown}"
                    return
                self.shown += data.decode(errors="replace")

    def type_line(self, line: str) -> None:
        os.write(self._master, f"{line}\n".encode())
