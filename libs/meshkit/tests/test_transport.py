"""TLS, exposure, message limits, retries."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc
from meshkit.errors import from_rpc_error
from meshkit.identity import Principal, principal_scope
from meshkit.policy import rules_of_component
from meshkit.server import StartupError
from meshkit.service_config import service_config
from meshkit.testkit import make_tls

GET = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")


async def _ok(request: Any, context: Any) -> Any:
    return catalog.GetDocumentResponse()


async def test_tls_refuses_plaintext_and_other_authorities(
    mesh: Any, operator: Principal, tmp_path: Path
) -> None:
    tls = make_tls(tmp_path / "tls")
    stranger = make_tls(tmp_path / "other")
    host = await mesh.serve(
        GetDocument=_ok,
        settings={"tls_cert_file": tls.tls_cert_file, "tls_key_file": tls.tls_key_file},
    )
    with principal_scope(operator):
        await mesh.catalog(host, tls_ca_file=tls.tls_ca_file).GetDocument(GET)
        for settings in ({}, {"tls_ca_file": stranger.tls_ca_file}):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await mesh.catalog(host, **settings).GetDocument(GET)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls_refuses_clients_without_a_certificate(
    mesh: Any, operator: Principal, tmp_path: Path
) -> None:
    authority = trustme.CA()
    server, client = (make_tls(tmp_path / name, authority) for name in ("server", "client"))
    host = await mesh.serve(
        GetDocument=_ok, settings={**server.settings(), "tls_require_client_cert": True}
    )
    with principal_scope(operator):
        await mesh.catalog(host, **client.settings()).GetDocument(GET)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.catalog(host, tls_ca_file=client.tls_ca_file).GetDocument(GET)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def served_certificate(address: str) -> bytes:
    """Which one a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 30) as bare, context.wrap_socket(bare) as tls:
        return tls.getpeercert(binary_form=True) or b""


async def test_a_renewed_certificate_is_shown_without_a_restart(mesh: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    files = make_tls(tmp_path / "tls", authority)
    renewed, stranger = make_tls(tmp_path / "next", authority), make_tls(tmp_path / "other")
    host = await mesh.serve(
        GetDocument=_ok,
        settings={"tls_cert_file": files.tls_cert_file, "tls_key_file": files.tls_key_file},
    )

    async def shown() -> bytes:
        return await asyncio.to_thread(served_certificate, host.grpc_address)

    first = await shown()
    # In the middle of its replacement certificate and key do not belong together.
    stranger.tls_cert_file.replace(files.tls_cert_file)
    assert await shown() == first
    files.tls_cert_file.unlink()
    assert await shown() == first
    renewed.tls_cert_file.replace(files.tls_cert_file)
    renewed.tls_key_file.replace(files.tls_key_file)
    second = await shown()
    assert second != first
    expected = ssl.PEM_cert_to_DER_cert(
        files.tls_cert_file.read_text().split("-----END")[0] + "-----END CERTIFICATE-----\n"
    )
    assert second == expected


@pytest.mark.parametrize("broken", ["missing", "not a key"])
async def test_certificates_that_cannot_be_used_do_not_start(
    mesh: Any, tmp_path: Path, broken: str
) -> None:
    files = make_tls(tmp_path / "tls")
    if broken == "missing":
        files.tls_key_file.unlink()
    else:
        files.tls_key_file.write_text(broken)
    with pytest.raises(StartupError, match="certificates of this service"):
        await mesh.serve(GetDocument=_ok, settings=files.settings())


async def test_without_a_secret_only_loopback(mesh: Any) -> None:
    everywhere = "0.0.0.0"  # noqa: S104  the point of the test
    host = mesh.hosts.build("open", grpc_host=everywhere)
    with pytest.raises(StartupError, match="AGENTMESH_INTERNAL_SECRET") as caught:
        await host.start()
    assert "\n" not in str(caught.value)
    guarded = await mesh.hosts.start("guarded", grpc_host=everywhere, internal_secret="s" * 32)
    assert guarded.grpc_address.startswith("127.0.0.1:")


async def test_a_taken_port_is_one_clear_line(mesh: Any) -> None:
    first = await mesh.hosts.start("first")
    second = mesh.hosts.build("second", grpc_port=int(first.grpc_address.split(":")[1]))
    with pytest.raises(StartupError, match=r"cannot listen on 127\.0\.0\.1"):
        await second.start()


async def test_big_messages_pass_up_to_the_limit_and_are_named_beyond(
    mesh: Any, operator: Principal
) -> None:
    async def get(request: Any, context: Any) -> Any:
        text = "x" * int(request.name)
        return catalog.GetDocumentResponse(document=catalog.Document(name=text))

    limit = 64 * 1024
    host = await mesh.serve(GetDocument=get, settings={"max_message_bytes": limit})
    small, large = mesh.catalog(host), mesh.catalog(host, max_message_bytes=limit * 4)

    def sized(size: int) -> Any:
        return catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name=f"{size}")

    with principal_scope(operator):
        answer = await small.GetDocument(sized(limit - 1000))
        assert len(answer.document.name) == limit - 1000
        oversized = catalog.GetDocumentRequest(
            kind=catalog.DOCUMENT_KIND_AGENT, name="9" * (limit + 1)
        )
        for call in (large.GetDocument(oversized), large.GetDocument(sized(limit + 1))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            error = from_rpc_error(caught.value)
            assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error.reason_name == "MESSAGE_TOO_LARGE"
            assert error.metadata == {"limit_bytes": str(limit)}


class _Flaky(catalog_service_pb2_grpc.CatalogServiceServicer):
    """Fails the first call to each method, as a bare server that knows nothing of the mesh."""

    def __init__(self) -> None:
        self.calls = {"get": 0, "delete": 0}

    async def GetDocument(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls["get"] += 1
        if self.calls["get"] < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "later")
        return catalog.GetDocumentResponse()

    async def DeleteDocument(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls["delete"] += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE, "later")


async def test_only_safe_methods_are_retried(mesh: Any, operator: Principal) -> None:
    server, flaky = grpc.aio.server(), _Flaky()  # type: ignore[abstract]  # as it runs
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(flaky, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = mesh.channels().channel(f"127.0.0.1:{port}", "conversation_store")
    stub: Any = catalog_service_pb2_grpc.CatalogServiceStub(channel)
    with principal_scope(operator):
        await stub.GetDocument(GET)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.DeleteDocument(catalog.DeleteDocumentRequest(kind=GET.kind, name="x"))
    await server.stop(None)
    assert flaky.calls == {"get": 3, "delete": 1}


def test_service_config_follows_the_policies() -> None:
    import json

    config = json.loads(service_config(rules_of_component("conversation_store")))
    retried = {
        f"{m['name'][0]['service'].rpartition('.')[2]}/{m['name'][0]['method']}"
        for m in config["methodConfig"]
        if "retryPolicy" in m
    }
    assert {"CatalogService/GetDocument", "TurnService/CommitTurn"} <= retried
    assert not {"CatalogService/PutDocument", "TurnService/LeaseTurns"} & retried
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]


async def test_a_call_comes_through_after_a_restart_on_the_same_port(
    mesh: Any, operator: Principal
) -> None:
    first = await mesh.serve(GetDocument=_ok)
    stub = mesh.catalog(first)
    port = int(first.grpc_address.split(":")[1])
    with principal_scope(operator):
        await stub.GetDocument(GET)
        await first.stop()
        with raises_unavailable():
            await stub.GetDocument(GET)
        await mesh.serve(GetDocument=_ok, settings={"grpc_port": port})
        await stub.GetDocument(GET, wait_for_ready=True, timeout=20)


def raises_unavailable() -> Any:
    return pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE")
