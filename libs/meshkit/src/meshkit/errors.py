"""The error model, both ways: what a servicer raises, and what a caller gets.

A servicer raises `MeshError`. It travels as `google.rpc.Status` with an `ErrorInfo` (always) and
the details that fit. `from_rpc_error` turns what a call raised back into a `MeshError`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import grpc
from agentmesh.common.v1 import errors_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from meshkit.mesh_error import (
    DRAINING_RETRY_SECONDS,
    REASON_PREFIX,
    FieldViolation,
    MeshError,
    QuotaViolation,
    reason_name,
)

__all__ = [
    "DOMAIN",
    "FieldViolation",
    "MeshError",
    "QuotaViolation",
    "from_rich_status",
    "from_rpc_error",
    "http_status",
    "reason_name",
    "rich_status_of",
    "stream_reset",
    "to_rich_status",
]

DOMAIN = "agentmesh.dev"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
SERVICE_ATTRIBUTE = "meshkit_service"
"""Set by meshkit's channels on the AioRpcError they raise: the name of the called service."""

# Trailing metadata beyond 8 KiB is dropped by peers together with the status it carries.
_MAX_STATUS_BYTES = 6000
_MAX_MESSAGE_CHARACTERS = 1000
_MAX_DESCRIPTION_CHARACTERS = 300

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_HTTP_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
}
# What a bare status, one that came without an ErrorInfo, most likely means.
_BARE_REASONS = {
    grpc.StatusCode.CANCELLED: errors_pb2.ERROR_REASON_CANCELLED,
    grpc.StatusCode.INVALID_ARGUMENT: errors_pb2.ERROR_REASON_INVALID_FIELD,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND: errors_pb2.ERROR_REASON_NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: errors_pb2.ERROR_REASON_ALREADY_EXISTS,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors_pb2.ERROR_REASON_OVERLOADED,
    grpc.StatusCode.UNIMPLEMENTED: errors_pb2.ERROR_REASON_UNIMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: errors_pb2.ERROR_REASON_SERVICE_UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED: errors_pb2.ERROR_REASON_CREDENTIALS_INVALID,
    grpc.StatusCode.DATA_LOSS: errors_pb2.ERROR_REASON_CORRUPT,
    grpc.StatusCode.INTERNAL: errors_pb2.ERROR_REASON_INTERNAL,
    grpc.StatusCode.UNKNOWN: errors_pb2.ERROR_REASON_INTERNAL,
}
_RESET_CODES = frozenset(
    {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED}
)
_TOO_LARGE = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")


def http_status(code: grpc.StatusCode, reason: str = "") -> int:
    """The HTTP status of a gRPC code, as google.rpc.Code maps it; 413 for oversized messages."""
    return 413 if reason == "MESSAGE_TOO_LARGE" else _HTTP_STATUS[code]


def to_rich_status(error: MeshError) -> status_pb2.Status:
    """The error as it travels, small enough for trailing metadata."""
    if error.status is not None:
        return error.status
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason_name, domain=DOMAIN, metadata=error.metadata
        )
    ]
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after * 1e9))
        details.append(retry)
    if error.resource is not None:
        kind, name = error.resource
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type=kind, resource_name=_shorten(name, _MAX_DESCRIPTION_CHARACTERS)
            )
        )
    if error.quotas:
        quota_failure = error_details_pb2.QuotaFailure()
        for quota in error.quotas:
            quota_failure.violations.add(subject=quota.subject, description=quota.description)
        details.append(quota_failure)
    status = status_pb2.Status(
        code=error.code.value[0],
        message=_shorten(error.message, _MAX_MESSAGE_CHARACTERS),
        details=[_pack(detail) for detail in details],
    )
    if error.violations:
        room = _MAX_STATUS_BYTES - status.ByteSize()
        status.details.append(_pack(_bad_request(error.violations, room)))
    return status


def from_rpc_error(error: grpc.RpcError) -> MeshError:
    """What a failed call says, whether it came with a rich status or from gRPC itself."""
    if not isinstance(error, grpc.aio.AioRpcError):
        raise TypeError(f"not an error of a grpc.aio call: {type(error).__name__}") from error
    status = rich_status_of(error)
    if status is None:
        return _from_bare_status(error)
    parsed = from_rich_status(status)
    parsed.status = status
    return parsed


def stream_reset(error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError | None:
    """The error as UNAVAILABLE if the stream was broken off on its way; else None.

    A proxy that loses a server, or a server that ends, resets its streams, of which gRPC makes
    INTERNAL as a rule. Every server of ours gives the reason of a failure; here there is none.
    """
    details = error.details() or ""
    if error.code() not in _RESET_CODES or "RST_STREAM" not in details:
        return None
    if rich_status_of(error) is not None:
        return None
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        error.initial_metadata(),
        error.trailing_metadata(),
        details,
        error.debug_error_string(),
    )


def rich_status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """The `google.rpc.Status` that came with the error, if it carries an ErrorInfo."""
    raw = (error.trailing_metadata() or {}).get(STATUS_DETAILS_KEY)
    if not isinstance(raw, bytes):
        return None
    try:
        status = status_pb2.Status.FromString(raw)
    except DecodeError:
        return None
    has_info = any(d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR) for d in status.details)
    return status if has_info and status.code == error.code().value[0] else None


def from_rich_status(status: status_pb2.Status) -> MeshError:
    """The status as an error; details of unknown types are left out."""
    error = MeshError(
        _CODES.get(status.code, grpc.StatusCode.UNKNOWN),
        errors_pb2.ERROR_REASON_UNSPECIFIED,
        status.message,
    )
    for detail in status.details:
        _take_detail(error, detail)
    return error


def _take_detail(error: MeshError, detail: AnyMessage) -> None:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    resource = error_details_pb2.ResourceInfo()
    bad_request = error_details_pb2.BadRequest()
    quota = error_details_pb2.QuotaFailure()
    if detail.Unpack(info):
        name = REASON_PREFIX + info.reason
        number = errors_pb2.ErrorReason.DESCRIPTOR.values_by_name.get(name)
        if number is not None:
            error.reason = errors_pb2.ErrorReason.ValueType(number.number)
        error.metadata = dict(info.metadata)
    elif detail.Unpack(retry):
        error.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    elif detail.Unpack(resource):
        error.resource = (resource.resource_type, resource.resource_name)
    elif detail.Unpack(bad_request):
        error.violations = tuple(
            FieldViolation(v.field, v.description) for v in bad_request.field_violations
        )
    elif detail.Unpack(quota):
        error.quotas = tuple(QuotaViolation(v.subject, v.description) for v in quota.violations)


def _from_bare_status(error: grpc.aio.AioRpcError) -> MeshError:
    code, details = error.code(), error.details() or ""
    too_large = _TOO_LARGE.search(details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and too_large:
        return MeshError.message_too_large(int(too_large[2]), int(too_large[1]))
    if code is grpc.StatusCode.UNAVAILABLE:
        service = getattr(error, SERVICE_ATTRIBUTE, "the called service")
        return MeshError.unavailable(service, details, retry_after=DRAINING_RETRY_SECONDS)
    reason = _BARE_REASONS.get(code, errors_pb2.ERROR_REASON_UNSPECIFIED)
    return MeshError(code, reason, details or code.name)


def _bad_request(violations: Sequence[FieldViolation], room: int) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    for violation in violations:
        bad_request.field_violations.add(
            field=_shorten(violation.field, _MAX_DESCRIPTION_CHARACTERS),
            description=_shorten(violation.description, _MAX_DESCRIPTION_CHARACTERS),
        )
        if bad_request.ByteSize() > room and len(bad_request.field_violations) > 1:
            del bad_request.field_violations[-1]
            break
    return bad_request


def _pack(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
