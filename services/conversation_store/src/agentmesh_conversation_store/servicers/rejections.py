"""A domain's no as the error that callers see."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import FieldViolation, MeshError, QuotaViolation

from agentmesh_conversation_store.domain.rejections import Reason, Rejection

T = TypeVar("T")

_CODES = {
    Reason.INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.REQUEST_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.STEP_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    Reason.TURN_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    Reason.ETAG_MISMATCH: grpc.StatusCode.ABORTED,
    Reason.OUTCOME_UNKNOWN: grpc.StatusCode.ABORTED,
    Reason.STALE_FENCE: grpc.StatusCode.ABORTED,
    Reason.TURN_GAP: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REPLAY_DIVERGED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.STEP_NOT_CLAIMED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.WORKSPACE_MOVED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.ALREADY_ENDED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.RUN_UNDER_WAY: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CHECKPOINT_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.BUILT_IN: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.LEGAL_HOLD: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.HISTORY_REMOVED: grpc.StatusCode.OUT_OF_RANGE,
    Reason.BEYOND_HEAD: grpc.StatusCode.OUT_OF_RANGE,
    Reason.BUDGET_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STORAGE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DATABASE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.CORRUPT: grpc.StatusCode.DATA_LOSS,
    Reason.CREDENTIALS_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    Reason.ROLE_TOO_LOW: grpc.StatusCode.PERMISSION_DENIED,
    Reason.ACCESS_TOO_LOW: grpc.StatusCode.PERMISSION_DENIED,
    Reason.GRANT_TOO_WIDE: grpc.StatusCode.PERMISSION_DENIED,
    Reason.ALREADY_DECIDED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.APPROVAL_REQUIRED: grpc.StatusCode.FAILED_PRECONDITION,
}
_RETRY_SECONDS = {
    Reason.DATABASE_UNAVAILABLE: 1.0,
    Reason.SERVICE_UNAVAILABLE: 1.0,
    Reason.STORAGE_FULL: 30.0,
}


def as_mesh_error(rejection: Rejection) -> MeshError:
    """The same, with its status code, reason and details."""
    reason, metadata = rejection.reason, dict(rejection.metadata)
    if reason is Reason.NOT_FOUND:
        error = MeshError.not_found(metadata["kind"], metadata["name"])
        if field := metadata.get("field"):
            error.violations = (FieldViolation(field, rejection.message),)
        return error
    if reason is Reason.INVALID_FIELD and "field" in metadata:
        return MeshError.invalid(metadata["field"], rejection.message)
    return MeshError(
        _CODES[reason],
        errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason.value}"),
        rejection.message,
        metadata=metadata,
        retry_after=_RETRY_SECONDS.get(reason)
        if rejection.retry_after is None
        else rejection.retry_after,
        quotas=() if rejection.quota is None else (QuotaViolation(*rejection.quota),),
    )


def answers_rejections(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Wraps a method with one response."""

    @functools.wraps(method)
    async def translated(*arguments: Any) -> T:
        try:
            return await method(*arguments)
        except Rejection as rejection:
            raise as_mesh_error(rejection) from rejection

    return translated


def streams_rejections(
    method: Callable[..., AsyncIterator[T]],
) -> Callable[..., AsyncIterator[T]]:
    """Wraps a method with a stream of responses."""

    @functools.wraps(method)
    async def translated(*arguments: Any) -> AsyncIterator[T]:
        responses = method(*arguments)
        try:
            async for response in responses:
                yield response
        except Rejection as rejection:
            raise as_mesh_error(rejection) from rejection
        finally:
            aclose = getattr(responses, "aclose", None)
            if aclose is not None:
                await aclose()

    return translated
