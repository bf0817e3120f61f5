"""A real server that speaks S3, in a process of its own on loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BUCKET = "agentmesh-blobs"
START_SECONDS = 60.0

# The server prints no port: it is given a socket that is bound already.
_SERVE = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
app = DomainDispatcherApplication(create_backend_app)
make_server("127.0.0.1", 0, app, threaded=True, fd=int(sys.argv[1])).serve_forever()
"""


@dataclass
class S3Server:
    """One server. It forgets everything when it stops."""

    endpoint: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What a client of it needs, in the variables of the SDK."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str = BUCKET) -> None:
        """Makes a bucket."""
        self.request("PUT", f"/{name}")

    def uploads(self, bucket: str = BUCKET) -> str:
        """The multipart uploads under way, as the server lists them."""
        return self.request("GET", f"/{bucket}?uploads")

    def keys(self, bucket: str = BUCKET) -> str:
        """The objects, as the server lists them."""
        return self.request("GET", f"/{bucket}")

    def request(self, method: str, path: str) -> str:
        """One request; it signs nothing, which this server allows."""
        request = urllib.request.Request(self.endpoint + path, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310  loopback
            body: bytes = response.read()
        return body.decode()

    def stop(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A running server with a bucket."""
    with socket.socket() as listener, (folder / "s3.log").open("wb") as log:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    server = S3Server(f"http://127.0.0.1:{port}", process)
    try:
        _wait(server, folder)
        yield server
    finally:
        server.stop()


def _wait(server: S3Server, folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            return server.make_bucket()
        except (urllib.error.URLError, OSError) as error:
            if server.process.poll() is not None or time.monotonic() > end:
                raise AssertionError((folder / "s3.log").read_text()) from error
            time.sleep(0.1)
