"""Files far larger than a gateway's memory may grow go through it in pieces, both ways."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import httpx
import psutil

from tests.support.mesh import Mesh

MIB = 1024 * 1024
PIECE = bytes(range(256)) * (MIB // 256)
PIECES = 1024
MOST_GROWTH = 96 * MIB


async def test_a_large_file_is_never_held(keyed_mesh: Mesh) -> None:
    gateway = psutil.Process(keyed_mesh.processes["gateway"].pid)
    sizes = [gateway.memory_info().rss]

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(PIECES):
            sizes.append(gateway.memory_info().rss)
            yield PIECE

    headers = {"x-api-key": keyed_mesh.keys["acme"], "content-type": "application/octet-stream"}
    async with httpx.AsyncClient(base_url=keyed_mesh.rest_url, timeout=120) as http:
        length = {"content-length": str(PIECES * MIB)}
        sent = await http.post("/blobs", content=pieces(), headers=headers | length)
        assert sent.status_code == 200, sent.text
        digest = hashlib.sha256()
        path = f"/blobs/{sent.json()['digest']}"
        async with http.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200
            async for piece in response.aiter_bytes(MIB):
                digest.update(piece)
                sizes.append(gateway.memory_info().rss)
    assert digest.hexdigest() == sent.json()["digest"]
    assert max(sizes) - sizes[0] < MOST_GROWTH
