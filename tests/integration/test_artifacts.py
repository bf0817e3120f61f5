"""Files of conversations over REST: people give them, agents use them, other tenants find none."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from tests.support.conversations import follow
from tests.support.mesh import Mesh

FILE = {"content-type": "application/octet-stream"}


@pytest_asyncio.fixture
async def acme(keyed_mesh: Mesh) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(keyed_mesh, "acme") as client:
        yield client


def _client(mesh: Mesh, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {mesh.keys[key]}"}
    return httpx.AsyncClient(base_url=mesh.rest_url, headers=headers, timeout=60)


async def test_files_go_in_and_out(keyed_mesh: Mesh, acme: httpx.AsyncClient) -> None:
    started = await keyed_mesh.start_conversation("hello", ("reviewer",), key="acme", max_rounds=1)
    await follow(keyed_mesh.channel("acme"), started.conversation_id)
    base = f"/conversations/{started.conversation_id}"
    content = bytes(range(256)) * 8192
    sent = await acme.put(f"{base}/artifacts/in/data.csv", content=content, headers=FILE)
    assert sent.status_code == 200, sent.text
    artifact = sent.json()["artifact"]
    assert (artifact["path"], artifact["kind"]) == ("in/data.csv", "file")
    assert artifact["media_type"] == "text/csv"
    await acme.put(f"{base}/artifacts/b%20c.txt", content=b"b", headers=FILE)

    listed = (await acme.get(f"{base}/artifacts", params={"page_size": 1})).json()
    assert [file["path"] for file in listed["artifacts"]] == ["b c.txt"]
    more = {"page_token": listed["next_page_token"]}
    listed = (await acme.get(f"{base}/artifacts", params=more)).json()
    assert [file["path"] for file in listed["artifacts"]] == ["in/data.csv"]
    got = await acme.get(f"{base}/artifacts/in/data.csv")
    assert got.content == content
    part = await acme.get(f"{base}/artifacts/in/data.csv", params={"offset": 5, "limit": 3})
    assert part.content == b"\5\6\7"
    details = await acme.get(f"{base}/artifact-details/in/data.csv", params={"with_sha256": "true"})
    assert details.json()["artifact"]["etag"] == artifact["etag"]
    assert hashlib.sha256(content).digest() == base64.b64decode(
        details.json()["artifact"]["sha256"]
    )

    again = await acme.put(
        f"{base}/artifacts/in/data.csv", params={"etag": "old"}, content=b"x", headers=FILE
    )
    assert again.status_code == 409
    taken = await acme.put(
        f"{base}/artifacts/in/data.csv", params={"must_not_exist": "1"}, content=b"x", headers=FILE
    )
    assert taken.status_code == 409
    outside = await acme.put(f"{base}/artifacts/%2e%2e/x", content=b"x", headers=FILE)
    assert outside.status_code == 400
    folder = await acme.put(f"{base}/artifacts/in", content=b"x", headers=FILE)
    assert folder.status_code == 400
    assert (await acme.delete(f"{base}/artifacts/in")).json() == {"removed": True}
    assert (await acme.delete(f"{base}/artifacts/in")).json() == {"removed": False}
    assert (await acme.get(f"{base}/artifacts/in/data.csv")).status_code == 404
    kept = (await acme.get(f"{base}/artifact-versions", params={"path": "in"})).json()["versions"]
    assert [(version["path"], version["kind"]) for version in kept] == [("in", "folder")]
    restore = f"{base}/artifact-versions/{kept[0]['id']}/restore"
    restored = await acme.post(restore, json={})
    assert restored.json()["artifact"]["path"] == "in"
    assert (await acme.post(restore, json={})).status_code == 409
    assert (await acme.get(f"{base}/artifacts/in/data.csv")).content == content


async def test_others_find_nothing(keyed_mesh: Mesh, acme: httpx.AsyncClient) -> None:
    started = await keyed_mesh.start_conversation("hello", ("reviewer",), key="acme", max_rounds=1)
    base = f"/conversations/{started.conversation_id}"
    await acme.put(f"{base}/artifacts/a.txt", content=b"acme's", headers=FILE)
    nowhere = await acme.put("/conversations/conv_no/artifacts/a", content=b"x", headers=FILE)
    assert nowhere.status_code == 404
    async with _client(keyed_mesh, "rival") as rival:
        for answer in (
            await rival.get(f"{base}/artifacts"),
            await rival.get(f"{base}/artifacts/a.txt"),
            await rival.get(f"{base}/artifact-details/a.txt"),
            await rival.get(f"{base}/artifact-versions"),
            await rival.post(f"{base}/artifact-versions/1-1/restore", json={}),
            await rival.put(f"{base}/artifacts/a.txt", content=b"rival's", headers=FILE),
            await rival.delete(f"{base}/artifacts/a.txt"),
        ):
            assert answer.status_code == 404
    async with _client(keyed_mesh, "viewer") as viewer:
        assert (await viewer.get(f"{base}/artifacts/a.txt")).status_code == 404
        shared = await acme.post(f"{base}/grants", json={"role": "viewer", "access": "write"})
        assert shared.status_code == 200, shared.text
        assert (await viewer.get(f"{base}/artifacts/a.txt")).content == b"acme's"
        refused = await viewer.put(f"{base}/artifacts/a.txt", content=b"x", headers=FILE)
        assert refused.status_code == 403
        assert (await viewer.delete(f"{base}/artifacts/a.txt")).status_code == 403
    assert (await acme.get(f"{base}/artifacts/a.txt")).content == b"acme's"
