"""What a failure says about how far a request came."""

from __future__ import annotations

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError, from_rpc_error, rich_status_of

_REFUSALS = frozenset(
    {
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""With these a service refuses a request before it does anything, but for `_LATE`."""

_EARLY = frozenset(
    {
        errors_pb2.ERROR_REASON_ETAG_MISMATCH,
        errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE,
        errors_pb2.ERROR_REASON_OVERLOADED,
        errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
        errors_pb2.ERROR_REASON_RATE_LIMITED,
        errors_pb2.ERROR_REASON_REPLICA_OVERLOADED,
    }
)
"""Reasons that say the same under a code that alone does not."""

_LATE = frozenset({errors_pb2.ERROR_REASON_WORKSPACE_MOVED})
"""Said when a change was made, and could not be saved."""

_NEVER_SENT = ("connections to all backends failing", "errors resolving ")
"""Where a channel found nobody to send a call to: the words with which its picker fails it."""


def nothing_done(failure: BaseException) -> bool:
    """Whether it is certain that what failed so has left nothing behind."""
    if isinstance(failure, grpc.aio.AioRpcError):
        if rich_status_of(failure) is None:
            return _was_never_sent(failure)
        failure = from_rpc_error(failure)
    if not isinstance(failure, MeshError) or failure.reason in _LATE:
        return False
    return failure.code in _REFUSALS or failure.reason in _EARLY


def _was_never_sent(failure: grpc.aio.AioRpcError) -> bool:
    unavailable = failure.code() is grpc.StatusCode.UNAVAILABLE
    return unavailable and (failure.details() or "").startswith(_NEVER_SENT)


def describes(failure: BaseException, *reasons: errors_pb2.ErrorReason.ValueType) -> bool:
    """Whether a call failed with one of `reasons`."""
    if isinstance(failure, grpc.aio.AioRpcError):
        failure = from_rpc_error(failure)
    return isinstance(failure, MeshError) and failure.reason in reasons
