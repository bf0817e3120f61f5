"""Anonymous callers over HTTP: programs and pages of this machine, and none that only seem so."""

from __future__ import annotations

import httpx
import pytest
from agentmesh_gateway.rest.same_machine import require_this_machine
from meshkit.errors import MeshError
from meshkit.testkit import HostFactory

from .conftest import Gateway, Gateways
from .scripted_store import Keys, ScriptedStore, start_scripted_store
from .test_streams import silent

PATH = "/conversations/conv_1?without_messages=true"
CONSOLE = "https://console.example"


async def front(
    gateways: Gateways, hosts: HostFactory, *secrets: str, **settings: object
) -> Gateway:
    host = await start_scripted_store(hosts, ScriptedStore(silent), Keys(*secrets))
    return await gateways.start(store_address=host.grpc_address, **settings)


def says_which_key(response: httpx.Response) -> str:
    """The message of a refusal for want of a key."""
    assert response.status_code == 401, response.text
    error = response.json()["error"]
    assert error["details"][0]["reason"] == "CREDENTIALS_MISSING"
    message: str = error["message"]
    assert "agentmesh keys create" in message
    return message


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example:8000"},
        {"host": "127.0.0.1.rebound.example"},
        {"host": "192.168.1.7:8000"},
        {"host": ""},
        {"origin": "https://rebound.example"},
        {"origin": "http://rebound.example:8000"},
        {"origin": "null"},
    ],
    ids=str,
)
async def test_a_page_from_elsewhere_is_no_anonymous_administrator(
    gateways: Gateways, mesh_hosts: HostFactory, headers: dict[str, str]
) -> None:
    gateway = await front(gateways, mesh_hosts)
    (value,) = headers.values()
    assert f'"{value}"' in says_which_key(await gateway.http.get(PATH, headers=headers))
    made = await gateway.http.post("/admin/keys", json={"role": "admin"}, headers=headers)
    says_which_key(made)


async def test_this_machine_is_served_without_a_key(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await front(gateways, mesh_hosts, cors_allow_origins=[CONSOLE])
    for headers in (
        {},
        {"host": "localhost:8000"},
        {"origin": "http://localhost:3000"},
        {"origin": CONSOLE},
    ):
        assert (await gateway.http.get(PATH, headers=headers)).status_code == 200, headers


async def test_any_origin_is_no_origin_that_was_named(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    gateway = await front(gateways, mesh_hosts, cors_allow_origins=["*"])
    says_which_key(await gateway.http.get(PATH, headers={"origin": CONSOLE}))


async def test_a_key_or_a_decision_of_the_operator_makes_names_unimportant(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    headers = {"host": "mesh.example", "origin": CONSOLE}
    open_to_all = await front(gateways, mesh_hosts, allow_anonymous=True)
    assert (await open_to_all.http.get(PATH, headers=headers)).status_code == 200
    keyed = await front(gateways, mesh_hosts, "amk_1")
    with_key = headers | {"x-api-key": "amk_1"}
    assert (await keyed.http.get(PATH, headers=with_key)).status_code == 200


async def test_health_is_told_under_any_name(gateways: Gateways, mesh_hosts: HostFactory) -> None:
    gateway = await front(gateways, mesh_hosts)
    response = await gateway.http.get("/conversations/health", headers={"host": "probe.example"})
    assert response.status_code != 401


@pytest.mark.parametrize(
    ("host", "local"),
    [
        (b"localhost", True),
        (b"LocalHost:8000", True),
        (b"127.0.0.1:1", True),
        (b"127.8.9.10", True),
        (b"[::1]:8000", True),
        (b"[::1]", True),
        (b"[::2]", False),
        (b"localhost.example", False),
        (b"localhost@rebound.example", False),
        (b"127.0.0.1:8000:1", False),
        (b"128.0.0.1", False),
        (b"0.0.0.0", False),
        (b"\xff", False),
    ],
)
def test_loopback_has_these_names(host: bytes, local: bool) -> None:
    for headers in ({b"host": host}, {b"host": b"localhost", b"origin": b"http://" + host}):
        if local:
            require_this_machine(headers, ())
        else:
            with pytest.raises(MeshError):
                require_this_machine(headers, ())
