"""Whatever comes in over gRPC and REST: an answer in the agreed shape, and never a defect of ours.

The requests are made from the descriptors of every public method, and one of them from the seed
and its number alone: `AGENTMESH_FUZZ_SEED=… pytest tests/fuzz` sends the same ones again.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import uvloop
from agentmesh.common.v1.options_pb2 import ROLE_VIEWER
from agentmesh.gateway.v1.admin_service_pb2 import CreateKeyRequest
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.gateway.v1.agent_service_pb2 import AgentConfig, RegisterAgentRequest
from agentmesh.gateway.v1.agent_service_pb2_grpc import AgentServiceStub
from agentmesh.gateway.v1.artifact_service_pb2 import UploadArtifactRequest
from agentmesh.gateway.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from agentmesh.gateway.v1.blob_service_pb2 import UploadBlobRequest
from agentmesh.gateway.v1.blob_service_pb2_grpc import BlobServiceStub
from websockets.asyncio.client import connect

from tests.fuzz import campaign, connections, http2_frames, websocket_frames
from tests.fuzz.boundaries import Known
from tests.fuzz.findings import Findings, random_of
from tests.support.conversations import TEAM
from tests.support.mesh import Mesh

OVER_GRPC = 55_000
OVER_HTTP = 46_000
CONVERSATIONS = 150
BROKEN = 200
"""Connections at each port whose bytes are broken at random, beside one of each kind."""
FEW = 10
"""Descriptors that a gateway opens for itself: channels, threads."""
# Callers that are refused are of no interest to operators here, and their lines would be many.
QUIET = {"LOG_LEVEL": "WARNING", "AGENTMESH_LOG_FORMAT": "json"}
ENVIRONMENT = {
    "conversation_store": QUIET,
    "tool_runner": QUIET,
    "agent_runtime": QUIET,
    "gateway": {
        **QUIET,
        "AGENTMESH_ALLOW_ANONYMOUS": "true",
        # Limits would answer instead of what is tried.
        "AGENTMESH_REQUESTS_PER_SECOND": "0",
        "AGENTMESH_REQUESTS_PER_SECOND_PER_PRINCIPAL": "0",
        "AGENTMESH_ANONYMOUS_REQUESTS_PER_SECOND": "0",
        "AGENTMESH_REFUSED_CREDENTIALS_PER_MINUTE": "0",
        # So would a busy machine.
        "AGENTMESH_MAX_CALLS_UNDER_WAY": "0",
        "AGENTMESH_MAX_LOOP_LAG_SECONDS": "0",
    },
}


async def known_values(mesh: Mesh) -> Known:
    """Names and ids of what is there."""
    at_once = asyncio.Semaphore(8)

    async def started() -> str:
        async with at_once:
            response = await mesh.start_conversation("say hello", TEAM[:1], max_rounds=1)
            return response.conversation_id

    ids = await asyncio.gather(*(started() for _ in range(CONVERSATIONS)))
    channel = mesh.channel()
    artifacts: Any = ArtifactServiceStub(channel)
    blobs: Any = BlobServiceStub(channel)
    admin: Any = AdminServiceStub(channel)
    for conversation_id in ids[:10]:
        file = UploadArtifactRequest(
            conversation_id=conversation_id, path="a.txt", size_bytes=5, chunk=b"hello"
        )
        await artifacts.UploadArtifact(iter([file]))
    blob = await blobs.UploadBlob(iter([UploadBlobRequest(size_bytes=5, chunk=b"hello")]))
    keys = [await admin.CreateKey(CreateKeyRequest(name="k", role=ROLE_VIEWER)) for _ in range(20)]
    return Known(
        {
            "conversation_id": ids,
            "digest": [blob.digest],
            "path": ["a.txt", "b/c.txt"],
            "key_id": [key.key.key_id for key in keys],
            "workflow": ["software_development"],
            "workflow_id": ["software_development"],
            "name": [*TEAM, "novice", "helper"],
            "agents": list(TEAM),
            "agent": list(TEAM),
            "agent_id": list(TEAM),
            "task": ["say hello"],
            "content": ["hello"],
            "code": ["print(1)"],
            "request_id": ["request-1", "request-2"],
        }
    )


async def attack(mesh: Mesh, seed: int) -> Findings:
    """The whole run of requests."""
    known = await known_values(mesh)
    findings = await campaign.run(
        mesh.address("gateway"),
        mesh.rest_url,
        known,
        seed=seed,
        over_grpc=OVER_GRPC,
        over_http=OVER_HTTP,
    )
    await still_works(mesh, seed)
    return findings


async def still_works(mesh: Mesh, number: int) -> None:
    """It does what it is for; the agents that were there may be anything by now."""
    newcomer = RegisterAgentRequest(
        name=f"newcomer_{number}", config=AgentConfig(system_message="Greet.")
    )
    await AgentServiceStub(mesh.channel()).RegisterAgent(newcomer)
    await mesh.start_conversation("say hello again", [newcomer.name], max_rounds=1)


async def break_in(mesh: Mesh, seed: int) -> Findings:
    """Connections that send what no client would, to both ports."""
    findings = Findings(seed)
    url = urlsplit(mesh.rest_url)
    host, _, port = mesh.address("gateway").rpartition(":")
    for edge, address, kinds in (
        ("http2", (host, int(port)), list(http2_frames.attacks())),
        ("websocket", (str(url.hostname), url.port or 0), list(websocket_frames.attacks())),
    ):
        random = random_of(seed, edge, 0)
        more = [connections.broken(random, random.choice(kinds)) for _ in range(BROKEN)]
        await connections.strike(address, edge, [*kinds, *more], findings)
    await still_works(mesh, seed + 1)
    async with (
        asyncio.timeout(60),
        connect(f"ws://{url.netloc}/conversations/converse", proxy=None) as socket,
    ):
        await socket.send('{"ping": {}}')
        assert "pong" in str(await socket.recv())
    return findings


# gRPC prints this when it refuses a call of a path that is no text to somebody who is gone.
_CLIENT_HAS_LEFT = re.compile(
    r'Traceback .*\n(?:  File "src/python/grpcio/.*\n)+grpc\._cython\.cygrpc\.ExecuteBatchError.*\n'
)


def errors_in(log: str) -> list[str]:
    """Lines with which a service reports a defect of its own."""
    found = []
    for line in _CLIENT_HAS_LEFT.sub("", log).splitlines():
        try:
            level = json.loads(line)["level"]
        except (ValueError, KeyError, TypeError):
            level = "ERROR" if line.startswith(("Traceback", "ERROR")) else ""
        if level in ("ERROR", "CRITICAL") or "Traceback" in line:
            found.append(line[:2000])
    return found


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    mesh = Mesh(tmp_path_factory.mktemp("fuzz"), ENVIRONMENT)
    uvloop.run(mesh.start())
    yield mesh
    mesh.stop()


Attacker = Callable[[Mesh, int], Coroutine[Any, Any, Findings]]


def outcome(mesh: Mesh, attacker: Attacker, capsys: pytest.CaptureFixture[str]) -> Findings:
    """What an attack found, after it was asserted that nothing broke."""
    seed = int(os.environ.get("AGENTMESH_FUZZ_SEED") or secrets.randbelow(10**9))

    async def run() -> Findings:
        try:
            return await attacker(mesh, seed)
        finally:
            await mesh.heal()  # closes the channels of this loop

    began = time.monotonic()
    findings = uvloop.run(run())
    dead = [name for name, process in mesh.processes.items() if not process.alive]
    errors = {name: errors_in(process.log()) for name, process in mesh.processes.items()}
    with capsys.disabled():
        sys.stdout.write(f"\n{findings.text()}\n{time.monotonic() - began:.0f} s\n")
    assert not findings.wrong, findings.text()
    assert not dead
    assert not any(errors.values()), f"seed {seed}: {errors}"
    return findings


@pytest.mark.timeout(900)
def test_no_request_meets_a_defect(mesh: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
    findings = outcome(mesh, attack, capsys)
    assert findings.count == OVER_GRPC + OVER_HTTP >= 100_000
    assert len(findings.methods) == len(campaign.METHODS)


@pytest.mark.timeout(300)
def test_no_connection_meets_a_defect(mesh: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = psutil.Process(mesh.processes["gateway"].pid)
    before = gateway.num_fds()
    findings = outcome(mesh, break_in, capsys)
    assert findings.count > 2 * BROKEN
    deadline = time.monotonic() + 60
    while gateway.num_fds() > before + FEW and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gateway.num_fds() <= before + FEW, "connections are kept that nobody has any more"
