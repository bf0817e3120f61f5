"""What a failed call raises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

_STATUS_KEY = "grpc-status-details-bin"
_RESET_CODES = frozenset(
    {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED}
)


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that breaks its rules, and what it must be."""

    field: str
    description: str


class AgentMeshError(Exception):
    """A call failed.

    `code` is the gRPC status ("INVALID_ARGUMENT"), `reason` why in a form for programs
    ("UNRESOLVED_TOOLS"; new ones may come), `violations` the fields that are wrong, `metadata` the
    reason's details, and `retry_after` the seconds after which a repetition may help, if it may.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after

    def __str__(self) -> str:
        return (
            f"{self.code} {self.reason}: {self.message}"
            if self.reason
            else (f"{self.code}: {self.message}")
        )


class InvalidArgumentError(AgentMeshError):
    """The request is wrong; `violations` says where."""


class UnauthenticatedError(AgentMeshError):
    """No API key came with the call, or it is not good."""


class PermissionDeniedError(AgentMeshError):
    """The API key's role is too low."""


class NotFoundError(AgentMeshError):
    """There is no such thing."""


class FailedPreconditionError(AgentMeshError):
    """The state of things does not allow it; `reason` says what must change."""


class UnavailableError(AgentMeshError):
    """A service of the mesh cannot be reached; `metadata["service"]` names it."""


_WRITTEN_TOO_LATE = "Internal error from Core"
_UNKNOWN = grpc.StatusCode.UNKNOWN
_CLASSES: dict[grpc.StatusCode, type[AgentMeshError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
}


def code_of(error: grpc.aio.AioRpcError) -> grpc.StatusCode:
    """What the failure means: of a stream that a proxy or a server that ended reset on its way,
    gRPC makes INTERNAL as a rule, but it may be tried again. So it does where a request of a stream
    is written when the answer has come already: what that answer was is lost, and comes again."""
    code, details = error.code(), error.details() or ""
    reset = code in _RESET_CODES and ("RST_STREAM" in details or details == _WRITTEN_TOO_LATE)
    if reset and not _status_of(error).details:
        return grpc.StatusCode.UNAVAILABLE
    return code


def from_rpc_error(error: grpc.aio.AioRpcError) -> AgentMeshError:
    """The failure of a gRPC call, with the details that came with it."""
    return _error(code_of(error), error.details() or "", _status_of(error))


def from_status(status: Status) -> AgentMeshError:
    """The failure of one request of a stream."""
    code = next((one for one in grpc.StatusCode if one.value[0] == status.code), _UNKNOWN)
    return _error(code, status.message, status)


def _error(code: grpc.StatusCode, message: str, status: Status) -> AgentMeshError:
    reason = ""
    metadata: dict[str, str] = {}
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad_request):
            violations = tuple(
                Violation(found.field, found.description) for found in bad_request.field_violations
            )
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return _CLASSES.get(code, AgentMeshError)(
        code.name,
        message or code.name.lower().replace("_", " "),
        reason=reason,
        metadata=metadata,
        violations=violations,
        retry_after=retry_after,
    )


def _status_of(error: grpc.aio.AioRpcError) -> Status:
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_KEY and isinstance(value, bytes):
            return Status.FromString(value)
    return Status()
