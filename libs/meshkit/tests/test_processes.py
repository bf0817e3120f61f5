"""A real process: ready file, SIGTERM, SIGKILL, refusal to be exposed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from agentmesh.common.v1 import trace_service_pb2, trace_service_pb2_grpc
from meshkit.identity import Principal, principal_scope
from meshkit.testkit import MeshProcess, ProcessFailedError

SERVICE = """
from meshkit.server import ServiceHost, run
from meshkit.settings import ServiceSettings, load_settings

async def main() -> None:
    await ServiceHost("tiny", load_settings(ServiceSettings)).serve_until_signalled()

run(main)
"""
COMMAND = [sys.executable, "-c", SERVICE]


async def test_starts_answers_drains_and_comes_back_on_its_port(
    mesh: Any, tmp_path: Path, operator: Principal
) -> None:
    process = MeshProcess(COMMAND, tmp_path / "tiny", {"AGENTMESH_LOG_FORMAT": "json"})
    async with process:
        address = process.grpc_address
        channel = mesh.channels().channel(address, "conversation_store")
        stub: Any = trace_service_pb2_grpc.TraceServiceStub(channel)
        request = trace_service_pb2.ListSpansRequest(trace_id="a" * 32)
        with principal_scope(operator):
            await stub.ListSpans(request)
            await process.sigkill()
            await process.restart()
            assert process.grpc_address == address
            await stub.ListSpans(request, wait_for_ready=True)
        assert await process.sigterm() == 0
        assert not (tmp_path / "tiny" / "ready.json").exists()
        assert '"message": "tiny stopped"' in process.log()


async def test_exposure_without_a_secret_is_one_line_and_status_2(tmp_path: Path) -> None:
    everywhere = {"AGENTMESH_GRPC_HOST": "0.0.0.0"}  # noqa: S104  to be refused
    process = MeshProcess(COMMAND, tmp_path / "tiny", everywhere)
    with pytest.raises(ProcessFailedError, match="ended with status 2"):
        await process.start()
    (line,) = process.log().splitlines()
    assert line.startswith("error: ")
    assert "AGENTMESH_INTERNAL_SECRET" in line


async def test_a_failed_start_shows_the_log(tmp_path: Path) -> None:
    process = MeshProcess([sys.executable, "-c", "print('no luck'); exit(7)"], tmp_path / "bad")
    with pytest.raises(ProcessFailedError, match=r"status 7[\s\S]*no luck"):
        await process.start()


LOSES_ITS_SERVER = SERVICE.replace(
    "    await ServiceHost",
    """    import asyncio
    from grpc.aio._server import Server
    starts = Server.start
    async def start(self):
        await starts(self)
        asyncio.get_running_loop().call_later(1, asyncio.ensure_future, self.stop(None))
    Server.start = start
    await ServiceHost""",
)


def test_a_process_whose_server_ends_ends_as_well(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOSES_ITS_SERVER]
    done = subprocess.run(
        command,
        env={**os.environ, "AGENTMESH_DATA_DIR": str(tmp_path), "AGENTMESH_GRPC_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "error: the gRPC server of tiny ended by itself" in done.stderr
