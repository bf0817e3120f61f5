"""Unary calls: credentials, request ids and repetition."""

from __future__ import annotations

import grpc
import pytest
from agentmesh_client import AgentMesh, AgentMeshError
from agentmesh_client.errors import code_of

from .conftest import ScriptedGateway


async def test_a_call_carries_the_key(gateway: ScriptedGateway, mesh: AgentMesh) -> None:
    started = await mesh.start("x", agents=["a"], max_rounds=3)
    assert (started.id, started.status) == ("conv_1", "running")
    assert gateway.metadata["authorization"] == "Bearer amk_1"
    assert gateway.starts[0].max_rounds == 3


async def test_a_call_that_found_nobody_is_repeated_under_the_same_request_id(
    gateway: ScriptedGateway, mesh: AgentMesh
) -> None:
    gateway.start_errors = [grpc.StatusCode.UNAVAILABLE] * 2
    await mesh.start("x", agents=["a"])
    assert len(gateway.starts) == 3
    assert len({request.request_id for request in gateway.starts}) == 1
    assert gateway.starts[0].request_id


async def test_a_refused_call_is_not_repeated(gateway: ScriptedGateway, mesh: AgentMesh) -> None:
    gateway.start_errors = [grpc.StatusCode.RESOURCE_EXHAUSTED]
    with pytest.raises(AgentMeshError, match="not now") as refused:
        await mesh.start("x", agents=["a"])
    assert refused.value.code == "RESOURCE_EXHAUSTED"
    assert len(gateway.starts) == 1


@pytest.mark.parametrize(
    ("details", "code"),
    [
        ("Internal error from Core", grpc.StatusCode.UNAVAILABLE),
        ("Received RST_STREAM with error code 2", grpc.StatusCode.UNAVAILABLE),
        ("a defect", grpc.StatusCode.INTERNAL),
    ],
)
def test_what_grpc_makes_of_a_stream_that_broke_may_be_tried_again(
    details: str, code: grpc.StatusCode
) -> None:
    none = grpc.aio.Metadata()
    assert code_of(grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, none, none, details)) is code
