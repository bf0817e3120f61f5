"""What every response over HTTP says, and which pages of others may call."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
from meshkit.testkit import make_tls

from .conftest import Gateways

ORIGIN = "https://console.example"
SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,idempotency-key,last-event-id",
}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/nowhere"),
        ("POST", "/health"),
        ("GET", "/conversations"),
        ("OPTIONS", "/health"),
        ("OPTIONS", "/conversations"),
    ],
)
async def test_every_answer_has_the_security_headers_once(
    gateways: Gateways, method: str, path: str
) -> None:
    gateway = await gateways.start(cors_allow_origins=(ORIGIN,))
    headers = {"origin": ORIGIN} | (PREFLIGHT if path == "/conversations" else {})
    response = await gateway.http.request(method, path, headers=headers)
    for name, value in SECURITY.items():
        assert response.headers.get_list(name) == [value]
    # Plain HTTP cannot promise that it is never used.
    assert "strict-transport-security" not in response.headers


async def test_hsts_over_tls_and_behind_a_proxy_that_speaks_it(
    gateways: Gateways, tmp_path: Path
) -> None:
    files = make_tls(tmp_path / "tls")
    own = await gateways.start(http_tls=True, **files.settings())
    trust = ssl.create_default_context(cafile=str(files.tls_ca_file))
    async with httpx.AsyncClient(base_url=own.url, verify=trust, trust_env=False) as http:
        response = await http.get("/nowhere")
    assert response.headers["strict-transport-security"] == "max-age=31536000"
    said = {"x-forwarded-proto": "https"}
    behind = await gateways.start(trusted_proxies=("127.0.0.1",), hsts_seconds=60)
    response = await behind.http.get("/nowhere", headers=said)
    assert response.headers["strict-transport-security"] == "max-age=60"
    open_to_all = await gateways.start()
    response = await open_to_all.http.get("/nowhere", headers=said)
    assert "strict-transport-security" not in response.headers


async def test_pages_of_configured_origins_may_call(gateways: Gateways) -> None:
    gateway = await gateways.start(cors_allow_origins=(ORIGIN,))
    response = await gateway.http.options(
        "/conversations/start", headers={"origin": ORIGIN} | PREFLIGHT
    )
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "origin" in response.headers["vary"].lower()
    answer = await gateway.http.get("/nowhere", headers={"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    exposed = answer.headers["access-control-expose-headers"].lower()
    assert {"retry-after", "ratelimit", "ratelimit-policy", "x-request-id"} <= set(
        exposed.split(", ")
    )


@pytest.mark.parametrize("origin", ["https://evil.example", "https://console.example.evil", "null"])
async def test_pages_of_others_may_not(gateways: Gateways, origin: str) -> None:
    gateway = await gateways.start(cors_allow_origins=(ORIGIN,))
    preflight = await gateway.http.options(
        "/conversations/start", headers={"origin": origin} | PREFLIGHT
    )
    assert preflight.status_code == 400
    answer = await gateway.http.get("/nowhere", headers={"origin": origin})
    assert "access-control-allow-origin" not in answer.headers


async def test_all_origins_never_with_credentials(gateways: Gateways) -> None:
    gateway = await gateways.start(cors_allow_origins=("*",))
    for headers in ({"origin": ORIGIN}, {"origin": ORIGIN, "cookie": "a=b"}):
        answer = await gateway.http.get("/nowhere", headers=headers)
        assert answer.headers["access-control-allow-origin"] in ("*", ORIGIN)
        assert "access-control-allow-credentials" not in answer.headers
    preflight = await gateway.http.options(
        "/conversations/start", headers={"origin": ORIGIN} | PREFLIGHT
    )
    assert "access-control-allow-credentials" not in preflight.headers


async def test_without_origins_no_page_may_call(gateways: Gateways) -> None:
    gateway = await gateways.start()
    answer = await gateway.http.get("/nowhere", headers={"origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
