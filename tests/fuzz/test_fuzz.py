"""Whatever comes in over gRPC and REST: an answer in the agreed shape, and never a defect of ours.

The requests are made from the descriptors of every public method, and one of them from the seed
and its number alone: `AGENTMESH_FUZZ_SEED=… pytest tests/fuzz` sends the same ones again.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

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

from tests.fuzz import campaign
from tests.fuzz.boundaries import Known
from tests.fuzz.findings import Findings
from tests.support.conversations import TEAM
from tests.support.mesh import Mesh

OVER_GRPC = 55_000
OVER_HTTP = 46_000
CONVERSATIONS = 150
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
    """The whole run, against four processes."""
    await mesh.start()
    known = await known_values(mesh)
    findings = await campaign.run(
        mesh.address("gateway"),
        mesh.rest_url,
        known,
        seed=seed,
        over_grpc=OVER_GRPC,
        over_http=OVER_HTTP,
    )
    # It still does what it is for; the agents that were there may be anything by now.
    newcomer = RegisterAgentRequest(
        name=f"newcomer_{seed}", config=AgentConfig(system_message="Greet.")
    )
    await AgentServiceStub(mesh.channel()).RegisterAgent(newcomer)
    await mesh.start_conversation("say hello again", [newcomer.name], max_rounds=1)
    return findings


def errors_in(log: str) -> list[str]:
    """Lines with which a service reports a defect of its own."""
    found = []
    for line in log.splitlines():
        try:
            level = json.loads(line)["level"]
        except (ValueError, KeyError, TypeError):
            level = "ERROR" if line.startswith(("Traceback", "ERROR")) else ""
        if level in ("ERROR", "CRITICAL") or "Traceback" in line:
            found.append(line[:2000])
    return found


@pytest.mark.timeout(900)
def test_no_request_meets_a_defect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("AGENTMESH_FUZZ_SEED") or secrets.randbelow(10**9))
    mesh = Mesh(tmp_path, ENVIRONMENT)
    began = time.monotonic()
    try:
        findings = uvloop.run(attack(mesh, seed))
        dead = [name for name, process in mesh.processes.items() if not process.alive]
        errors = {name: errors_in(process.log()) for name, process in mesh.processes.items()}
    finally:
        mesh.stop()
    with capsys.disabled():
        sys.stdout.write(f"\n{findings.text()}\n{time.monotonic() - began:.0f} s\n")
    assert not findings.wrong, findings.text()
    assert not dead
    assert not any(errors.values()), f"seed {seed}: {errors}"
    assert findings.count == OVER_GRPC + OVER_HTTP >= 100_000
    assert len(findings.methods) == len(campaign.METHODS)
