"""Keys through the gateway: their limits, and that rotating them loses no call."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from .front import Front, reason, violations


def key(secret: str) -> dict[str, str]:
    return {"x-api-key": secret}


async def made(http: httpx.AsyncClient, by: str = "", **body: Any) -> dict[str, Any]:
    response = await http.post("/admin/keys", json=body, headers=key(by) if by else {})
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


async def test_keys_rotate_under_load(own_front: Front) -> None:
    http = own_front.http
    boss = (await made(http, role="admin", name="boss"))["secret"]
    worker = await made(http, boss, role="viewer", scopes=["agents:read"], ttl="3600s")
    path = f"/admin/keys/{worker['key']['key_id']}"
    secrets = [worker["secret"]]
    codes: list[int] = []
    rotating = True
    in_use = dict.fromkeys(range(6), worker["secret"])

    async def call_all_the_time(caller: int) -> None:
        while rotating:
            # Some callers learn of a new secret a few calls later than others.
            for _ in range(1 + 2 * caller):
                response = await http.get("/agents", headers=key(in_use[caller]))
                codes.append(response.status_code)
            in_use[caller] = secrets[-1]

    callers = [asyncio.create_task(call_all_the_time(number)) for number in in_use]
    for _ in range(8):
        async with asyncio.timeout(60):
            while set(in_use.values()) != {secrets[-1]}:
                await asyncio.sleep(0.01)
        rotated = await http.post(f"{path}/rotate", json={"overlap": "60s"}, headers=key(boss))
        assert rotated.status_code == 200, rotated.text
        secrets.append(rotated.json()["secret"])
    rotating = False
    await asyncio.gather(*callers)
    assert set(codes) == {200}

    last = await http.post(f"{path}/rotate", json={"overlap": "0s"}, headers=key(boss))
    assert (await http.get("/agents", headers=key(last.json()["secret"]))).status_code == 200
    for old in (secrets[0], secrets[-1]):
        assert (await http.get("/agents", headers=key(old))).status_code == 401


async def test_limits_of_keys_hold_over_rest(own_front: Front) -> None:
    http = own_front.http
    boss = (await made(http, role="admin", name="boss"))["secret"]
    narrow = await made(http, boss, role="admin", scopes=["agents:read", "keys:write"])
    assert narrow["key"]["scopes"] == ["agents:read", "keys:write"]
    assert narrow["key"]["created_by"].startswith("key_")
    assert (await http.get("/agents", headers=key(narrow["secret"]))).status_code == 200
    refused = await http.get("/conversations", headers=key(narrow["secret"]))
    assert refused.status_code == 403
    (info,) = [d for d in refused.json()["error"]["details"] if "reason" in d]
    assert (info["reason"], info["metadata"]["required_scope"]) == (
        "SCOPE_MISSING",
        "conversations:read",
    )
    wider = await http.post("/admin/keys", json={"role": "viewer"}, headers=key(narrow["secret"]))
    assert wider.status_code == 403
    assert reason(wider) == "GRANT_TOO_WIDE"
    for bad, field in (
        ({"scopes": ["agents:eat"]}, "scopes[0]"),
        ({"scopes": ["Agents:read"]}, "scopes[0]"),
        ({"scopes": ["agents:read", "agents:read"]}, "scopes"),
        ({"ttl": "0s"}, "ttl"),
    ):
        response = await http.post("/admin/keys", json={"role": "admin", **bad}, headers=key(boss))
        assert field in violations(response)
    none = await http.post("/admin/keys/key_none/rotate", json={}, headers=key(boss))
    assert none.status_code == 404
