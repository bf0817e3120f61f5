"""The secret of the mesh is replaced in all four services, one after another, under load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import httpx
import pytest
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import identity_service_pb2 as identity_pb2
from agentmesh.conversation_store.v1.identity_service_pb2_grpc import IdentityServiceStub
from meshkit.identity import INTERNAL_HEADER, SYSTEM, InternalIdentity
from meshkit.mesh_secrets import LOOK_SECONDS
from meshkit.settings import ServiceSettings
from pydantic import SecretStr

from tests.conftest import MeshFactory
from tests.support.conversations import follow, run_end
from tests.support.mesh import SERVICES, Mesh

OLD, NEW = "the-old-secret-of-this-mesh-0001", "the-new-secret-of-this-mesh-0002"
# Between them the calls reach every service.
PATHS = ("/conversations", "/models", "/tools/capabilities", "/agents")
UNLIMITED = {
    "AGENTMESH_REQUESTS_PER_SECOND": "0",
    "AGENTMESH_REQUESTS_PER_SECOND_PER_PRINCIPAL": "0",
}


def write(file: Path, *secrets: str) -> None:
    draft = file.with_suffix(".draft")
    draft.write_text("\n".join(secrets) + "\n", encoding="utf-8")
    draft.replace(file)


async def accepts(mesh: Mesh, secret: str) -> bool:
    """Whether the store takes a token that `secret` signed."""
    settings = ServiceSettings(data_dir=mesh.folder, internal_secret=SecretStr(secret))
    token = InternalIdentity("test", settings).mint(SYSTEM)
    async with grpc.aio.insecure_channel(mesh.address("conversation_store")) as channel:
        request = identity_pb2.AuthenticateKeyRequest()
        try:
            await IdentityServiceStub(channel).AuthenticateKey(
                request, metadata=((INTERNAL_HEADER, token),), timeout=30
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return False
    return True


async def test_no_call_is_lost_while_the_secret_is_replaced(
    meshes: MeshFactory, tmp_path: Path
) -> None:
    files = {service: tmp_path / f"{service}.secrets" for service in SERVICES}
    for file in files.values():
        write(file, OLD)
    settings = {
        service: {"AGENTMESH_INTERNAL_SECRET": "", "AGENTMESH_INTERNAL_SECRET_FILE": str(file)}
        for service, file in files.items()
    }
    settings["gateway"] |= UNLIMITED
    mesh = await meshes(**settings)
    answers: list[tuple[str, int]] = []
    ends: list[int] = []
    working = True

    async def call_all_the_time(path: str) -> None:
        async with httpx.AsyncClient(base_url=mesh.rest_url, timeout=60) as http:
            while working:
                answers.append((path, (await http.get(path)).status_code))

    async def talk_all_the_time() -> None:
        while working:
            conversation_id = await mesh.start_main_job()
            ends.append(run_end(await follow(mesh.channel(), conversation_id)).status)

    load = [asyncio.create_task(call_all_the_time(path)) for path in PATHS]
    load.append(asyncio.create_task(talk_all_the_time()))
    for secrets in ((OLD, NEW), (NEW, OLD), (NEW,)):
        for file in files.values():
            write(file, *secrets)
            await asyncio.sleep(0.2)  # the others are a step behind meanwhile
        await asyncio.sleep(LOOK_SECONDS + 0.5)
        talked = len(ends)
        async with asyncio.timeout(120):
            while len(ends) == talked:
                await asyncio.sleep(0.05)
    working = False
    await asyncio.gather(*load)

    assert set(answers) == {(path, 200) for path in PATHS}
    assert set(ends) == {conversation_pb2.RUN_STATUS_COMPLETED}
    assert (await accepts(mesh, NEW), await accepts(mesh, OLD)) == (True, False)


@pytest.mark.parametrize("content", ["", "short\n"])
async def test_a_service_does_not_start_with_a_bad_file(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secrets"
    file.write_text(content, encoding="utf-8")
    mesh = Mesh(
        tmp_path / "mesh",
        {
            "conversation_store": {
                "AGENTMESH_INTERNAL_SECRET": "",
                "AGENTMESH_INTERNAL_SECRET_FILE": str(file),
            }
        },
    )
    with pytest.raises(Exception, match="secret") as failed:
        await mesh.start_store()
    assert "Traceback" not in str(failed.value)
