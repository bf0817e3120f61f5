"""Runs one server as its child, and ends it when whoever started the guardian is gone.

    python guardian.py '{"command": [...], "folder": ..., "signal": ..., "user": ..., "group": ...}'

Writes the server's process id as one line to its output, then waits. The owner holds the other end
of the guardian's input and never writes: when that end closes, however the owner died, the server
gets `signal` and `folder` is removed. Uses the standard library only, so that it starts quickly.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any


def main() -> int:
    spec: dict[str, Any] = json.loads(sys.argv[1])
    server = subprocess.Popen(
        spec["command"],
        cwd=spec["folder"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        user=spec["user"],
        group=spec["group"],
        extra_groups=None if spec["user"] is None else [],
    )
    print(server.pid, flush=True)  # noqa: T201  # this is how the owner learns it
    abandoned = threading.Event()

    def end_with_owner() -> None:
        os.read(sys.stdin.fileno(), 1)  # unlike sys.stdin, holds no lock when we exit
        abandoned.set()
        server.send_signal(signal.SIGCONT)  # it may be stopped
        server.send_signal(spec["signal"])

    threading.Thread(target=end_with_owner, daemon=True).start()
    status = server.wait()
    if abandoned.is_set():
        shutil.rmtree(spec["folder"], ignore_errors=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
