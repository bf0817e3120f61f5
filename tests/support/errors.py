"""Reads rich errors as any gRPC client can."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2

TRAILER = "grpc-status-details-bin"


def rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The `google.rpc.Status` of a failed call; fails if there is none."""
    for key, value in error.trailing_metadata():
        if key == TRAILER:
            assert isinstance(value, bytes)
            status = status_pb2.Status.FromString(value)
            assert status.code == error.code().value[0]
            return status
    raise AssertionError(f"no rich status in {error!r}")


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo that every failed call carries; fails if it is missing."""
    for detail in rich_status(error).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "agentmesh.dev"
            return info
    raise AssertionError(f"no ErrorInfo in {rich_status(error)}")


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason of a failed call."""
    reason: str = error_info(error).reason
    return reason


def violations(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Field to what is wrong with it."""
    bad = error_details_pb2.BadRequest()
    for detail in rich_status(error).details:
        if detail.Unpack(bad):
            return {v.field: v.description for v in bad.field_violations}
    return {}
