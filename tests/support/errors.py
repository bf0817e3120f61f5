"""Reads rich errors as any gRPC client can."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo that every failed call carries; fails if it is missing."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no rich status in {error!r}"
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "agentmesh.dev"
            return info
    raise AssertionError(f"no ErrorInfo in {status}")


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason of a failed call."""
    return error_info(error).reason


def violations(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Field to what is wrong with it."""
    status = rpc_status.from_call(error)
    assert status is not None
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(bad):
            return {v.field: v.description for v in bad.field_violations}
    return {}
