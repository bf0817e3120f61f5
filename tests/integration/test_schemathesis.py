"""The document at /openapi.json is believed by a tester who tries everything that it says, and much
that it forbids: no defects, and nothing that the document does not say."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import Mesh

CONFIG = Path(__file__).parents[1] / "support" / "schemathesis.toml"
# What takes away the tester's own means to go on; tried last.
LAST = ("PutTenantPolicy", "RevokeKey", "RotateKey")
UNLIMITED = (
    "REFUSED_CREDENTIALS_PER_MINUTE",
    "REQUESTS_PER_SECOND",
    "REQUESTS_PER_SECOND_PER_PRINCIPAL",
    "ANONYMOUS_REQUESTS_PER_SECOND",
)


@pytest.fixture(scope="module")
def tried_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    gateway = {f"AGENTMESH_{name}": "0" for name in UNLIMITED}
    mesh = Mesh(tmp_path_factory.mktemp("tried"), {"gateway": gateway})

    async def start() -> None:
        await mesh.start()
        await mesh.create_key("first", "acme", "admin")
        await mesh.create_key("last", "acme", "admin")

    asyncio.run(start())
    yield mesh
    mesh.stop()


@pytest.mark.timeout(300)
async def test_the_gateway_does_what_its_document_says(tried_mesh: Mesh, tmp_path: Path) -> None:
    without = [f"--exclude-operation-id={name}" for name in LAST]
    await _try(tried_mesh, "first", 30, tmp_path, *without)
    await _try(tried_mesh, "last", 5, tmp_path, *[f"--include-operation-id={n}" for n in LAST])


async def _try(mesh: Mesh, key: str, seconds: int, folder: Path, *choice: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"),
        *(f"{mesh.rest_url}/openapi.json", "--header", f"x-api-key: {mesh.keys[key]}"),
        *("--phases", "examples,coverage,fuzzing", "--seed", "1", "--max-time", str(seconds)),
        *("--request-timeout", "30", "--warnings", "off", "--no-color"),
        *choice,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert " generated" in output.decode(), output.decode()
