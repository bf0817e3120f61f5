"""A real Envoy with the configuration that is shipped."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from meshkit.testkit import free_port

CONFIG = Path(__file__).parents[2] / "deploy" / "envoy" / "envoy.yaml"
PATIENCE_SECONDS = 30


def envoy_program() -> str | None:
    """Where Envoy is: beside this Python, or on the path; None if nowhere."""
    ours = Path(sys.executable).parent / "envoy"
    return str(ours) if ours.exists() else shutil.which("envoy")


class Envoy:
    """In front of one gateway. It keeps its port when it is started again."""

    def __init__(self, program: str, folder: Path, grpc_address: str, rest_url: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [program, "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        self._log = folder / "envoy.log"
        config = folder / "envoy.json"
        config.write_text(json.dumps(self._configured(grpc_address, rest_url)))
        self._command += ["-c", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    def _configured(self, grpc_address: str, rest_url: str) -> Any:
        """The shipped configuration, with the addresses that a reader is told to change."""
        config = yaml.safe_load(CONFIG.read_text())["static_resources"]
        _put(config["listeners"][0]["address"], "127.0.0.1", self.port)
        for cluster in config["clusters"]:
            address = rest_url if cluster["name"] == "gateway_rest" else f"//{grpc_address}"
            place = urlsplit(address)
            endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
            _put(endpoint["address"], place.hostname, place.port)
        return {"static_resources": config}

    async def start(self) -> None:
        """Starts it; returns when it listens."""
        self._process = self._spawn()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                assert self._process.poll() is None, self._log.read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _put(address: dict[str, Any], host: str | None, port: int | None) -> None:
    address["socket_address"] |= {"address": host, "port_value": port}
