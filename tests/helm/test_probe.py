"""The probe of images and charts, against a real server of meshkit's, with and without TLS."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import trustme
from meshkit import trace_service
from meshkit.server import ServiceHost
from meshkit.settings import ServiceSettings

SECRET = "0123456789abcdef0123456789abcdef"


async def probe(address: str, *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of the command that probes run."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshkit.probe", address, *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, errors.decode()


def host(folder: Path, **settings: object) -> ServiceHost:
    values = {"data_dir": folder, "internal_secret": SECRET, **settings}
    return ServiceHost("probed", ServiceSettings.model_validate(values))


async def test_tells_serving_from_not_serving(tmp_path: Path) -> None:
    server = host(tmp_path)
    await server.start()
    try:
        assert await probe(server.grpc_address) == (0, "")
        server.set_serving("", serving=False)
        status, errors = await probe(server.grpc_address)
        assert status == 1
        assert "NOT_SERVING" in errors
        # What liveness asks: a process that cannot serve is no reason to restart it.
        assert await probe(server.grpc_address, "--service", trace_service.FULL_NAME) == (0, "")
        status, errors = await probe(server.grpc_address, "--service", "no.such.Service")
        assert status == 1
        assert "NOT_FOUND" in errors
    finally:
        await server.stop()
    status, errors = await probe(server.grpc_address)
    assert status == 1
    assert "Traceback" not in errors


async def test_mutual_tls_with_the_services_own_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "demo-gateway-headless")
    files = {name: tmp_path / name for name in ("tls.crt", "tls.key", "ca.crt")}
    certificate.cert_chain_pems[0].write_to_path(files["tls.crt"])
    certificate.private_key_pem.write_to_path(files["tls.key"])
    authority.cert_pem.write_to_path(files["ca.crt"])
    server = host(
        tmp_path,
        tls_cert_file=files["tls.crt"],
        tls_key_file=files["tls.key"],
        tls_ca_file=files["ca.crt"],
        tls_require_client_cert=True,
    )
    await server.start()
    address = f"localhost:{server.grpc_address.rpartition(':')[2]}"
    try:
        assert await probe(address, "--tls", str(tmp_path)) == (0, "")
        assert (await probe(address, "--timeout", "2"))[0] == 1
        status, errors = await probe(address, "--tls", str(tmp_path / "gone"))
        assert status == 1
        assert "cannot read" in errors
    finally:
        await server.stop()


@pytest.mark.parametrize("address", ["localhost:1", "no-such-host.invalid:50051"])
async def test_nobody_there(address: str) -> None:
    status, errors = await probe(address, "--timeout", "1")
    assert status == 1
    assert errors.startswith(address)
    assert "Traceback" not in errors
