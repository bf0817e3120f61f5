"""A real process as small as a service can be: it serves its port, says so, and drains on SIGTERM.

Settings come from the environment, as those of the services do. JOURNAL names a file that gets a
line for every start and every orderly stop; FATE says how this process ends by itself.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def journal(word: str) -> None:
    with Path(os.environ["JOURNAL"]).open("a", encoding="utf-8") as stream:
        stream.write(f"{word} {os.environ['NAME']} {os.getpid()}\n")


def stop(*_: object) -> None:
    journal("stop")
    sys.exit(0)


def main() -> None:
    fate = os.environ.get("FATE", "")
    journal("start")
    if fate == "misconfigured":
        sys.stderr.write("AGENTMESH_GRPC_PORT: must be a number\n")
        sys.exit(2)
    if fate == "crash":
        sys.exit(sys.stderr.write("no disk\n") and 7)
    signal.signal(signal.SIGTERM, stop)
    if fate == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if fate == "grandchild":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(os.environ["JOURNAL"] + ".grandchild").write_text(str(child.pid))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(os.environ["AGENTMESH_GRPC_PORT"])))
    listener.listen()
    ready = Path(os.environ["AGENTMESH_READY_FILE"])
    temporary = ready.with_suffix(".tmp")
    port = listener.getsockname()[1]
    temporary.write_text(json.dumps({"service": "x", "grpc_address": f"127.0.0.1:{port}"}))
    temporary.replace(ready)
    sys.stdout.write("serving\n")
    while True:
        time.sleep(1)


main()
