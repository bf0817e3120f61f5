"""The one exception of the mesh, with a constructor for each way to fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import grpc
from agentmesh.common.v1 import errors_pb2
from google.rpc import status_pb2

DRAINING_RETRY_SECONDS = 1.0
REASON_PREFIX = "ERROR_REASON_"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks its rules: its path ("team.agents[2].name") and what it must be. The
    path is "" for the request as a whole."""

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}" if self.field else self.description


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """One quota that is used up: whose ("tenant:acme") and what it allows."""

    subject: str
    description: str


class MeshError(Exception):
    """A failure with a status code, a reason from `ErrorReason`, and its details.

    `retry_after` is in seconds. `resource` is a pair of kind and name. `message` is for people and
    goes to the caller: it never carries secrets or message contents.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: errors_pb2.ErrorReason.ValueType,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        resource: tuple[str, str] | None = None,
        quotas: Sequence[QuotaViolation] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.resource = resource
        self.quotas = tuple(quotas)
        self.status: status_pb2.Status | None = None
        """The status as another service sent it, if one did; passed on unchanged."""

    @property
    def reason_name(self) -> str:
        """The reason as it stands in ErrorInfo, for example "STALE_FENCE"."""
        return reason_name(self.reason)

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason_name}: {self.message}"

    @classmethod
    def invalid(cls, field: str, description: str) -> Self:
        """INVALID_ARGUMENT: one field breaks its rules."""
        return cls.invalid_fields([FieldViolation(field, description)])

    @classmethod
    def invalid_fields(cls, violations: Sequence[FieldViolation]) -> Self:
        """INVALID_ARGUMENT: these fields break their rules."""
        return cls(
            grpc.StatusCode.INVALID_ARGUMENT,
            errors_pb2.ERROR_REASON_INVALID_FIELD,
            "; ".join(str(violation) for violation in violations[:5]),
            violations=violations,
        )

    @classmethod
    def malformed(cls, message: str) -> Self:
        """INVALID_ARGUMENT: the body has not the expected shape."""
        return cls(
            grpc.StatusCode.INVALID_ARGUMENT, errors_pb2.ERROR_REASON_MALFORMED_BODY, message
        )

    @classmethod
    def message_too_large(cls, limit_bytes: int, actual_bytes: int | None = None) -> Self:
        """RESOURCE_EXHAUSTED: a message exceeds the limit."""
        size = "" if actual_bytes is None else f" of {actual_bytes} bytes"
        return cls(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE,
            f"a message{size} exceeds the limit of {limit_bytes} bytes",
            metadata={"limit_bytes": str(limit_bytes)},
        )

    @classmethod
    def credentials_missing(cls, remedy: str) -> Self:
        """UNAUTHENTICATED: no credentials came; `remedy` says which to send, and how."""
        return cls(
            grpc.StatusCode.UNAUTHENTICATED, errors_pb2.ERROR_REASON_CREDENTIALS_MISSING, remedy
        )

    @classmethod
    def credentials_invalid(cls, message: str = "the credentials are not valid") -> Self:
        """UNAUTHENTICATED: the credentials are unknown, revoked or expired."""
        return cls(
            grpc.StatusCode.UNAUTHENTICATED, errors_pb2.ERROR_REASON_CREDENTIALS_INVALID, message
        )

    @classmethod
    def credentials_expired(cls, message: str, expired_at: str) -> Self:
        """UNAUTHENTICATED: the credentials were good until `expired_at` (RFC 3339)."""
        return cls(
            grpc.StatusCode.UNAUTHENTICATED,
            errors_pb2.ERROR_REASON_CREDENTIALS_EXPIRED,
            message,
            metadata={"expired_at": expired_at},
        )

    @classmethod
    def grant_too_wide(cls, message: str, metadata: Mapping[str, str]) -> Self:
        """PERMISSION_DENIED: somebody gives a key more than they have themselves."""
        return cls(
            grpc.StatusCode.PERMISSION_DENIED,
            errors_pb2.ERROR_REASON_GRANT_TOO_WIDE,
            message,
            metadata=metadata,
        )

    @classmethod
    def role_too_low(cls, required: str, actual: str) -> Self:
        """PERMISSION_DENIED: role names such as "admin" and "viewer"."""
        return cls(
            grpc.StatusCode.PERMISSION_DENIED,
            errors_pb2.ERROR_REASON_ROLE_TOO_LOW,
            f"needs the role {required}; these credentials have {actual}",
            metadata={"required_role": required, "role": actual},
        )

    @classmethod
    def scope_missing(cls, required: str, actual: Iterable[str]) -> Self:
        """PERMISSION_DENIED: the credentials are limited to scopes without `required`."""
        scopes = " ".join(sorted(actual))
        return cls(
            grpc.StatusCode.PERMISSION_DENIED,
            errors_pb2.ERROR_REASON_SCOPE_MISSING,
            f"needs the scope {required}; these credentials have {scopes or 'none'}",
            metadata={"required_scope": required, "scopes": scopes},
        )

    @classmethod
    def internal_only(cls, message: str) -> Self:
        """PERMISSION_DENIED: only other services may call this."""
        return cls(
            grpc.StatusCode.PERMISSION_DENIED, errors_pb2.ERROR_REASON_INTERNAL_ONLY, message
        )

    @classmethod
    def capability_required(cls, message: str) -> Self:
        """PERMISSION_DENIED: a run capability is missing or is for another run."""
        return cls(
            grpc.StatusCode.PERMISSION_DENIED, errors_pb2.ERROR_REASON_CAPABILITY_REQUIRED, message
        )

    @classmethod
    def not_found(cls, kind: str, name: str) -> Self:
        """NOT_FOUND: there is no such thing, or it is another tenant's."""
        return cls(
            grpc.StatusCode.NOT_FOUND,
            errors_pb2.ERROR_REASON_NOT_FOUND,
            f"{kind} {name!r} does not exist",
            resource=(kind, name),
        )

    @classmethod
    def already_exists(
        cls,
        kind: str,
        name: str,
        reason: errors_pb2.ErrorReason.ValueType = errors_pb2.ERROR_REASON_ALREADY_EXISTS,
        **metadata: str,
    ) -> Self:
        """ALREADY_EXISTS: of a name, a request id, a step or a turn (see `reason`)."""
        return cls(
            grpc.StatusCode.ALREADY_EXISTS,
            reason,
            f"{kind} {name!r} already exists",
            metadata={"name": name, **metadata},
            resource=(kind, name),
        )

    @classmethod
    def stale_fence(cls, run_id: str, fence: int, current_fence: int) -> Self:
        """ABORTED: the caller's lease was taken away; it must stop its work on the run."""
        return cls(
            grpc.StatusCode.ABORTED,
            errors_pb2.ERROR_REASON_STALE_FENCE,
            f"the lease on {run_id} was taken away: fence {fence}, now {current_fence}",
            metadata={"fence": str(fence), "current_fence": str(current_fence)},
            resource=("run", run_id),
        )

    @classmethod
    def etag_mismatch(cls, kind: str, name: str, current_etag: str) -> Self:
        """ABORTED: the thing has changed since it was read."""
        return cls(
            grpc.StatusCode.ABORTED,
            errors_pb2.ERROR_REASON_ETAG_MISMATCH,
            f"{kind} {name!r} has changed since it was read; read it again",
            metadata={"current_etag": current_etag},
            resource=(kind, name),
        )

    @classmethod
    def precondition(
        cls, reason: errors_pb2.ErrorReason.ValueType, message: str, **metadata: str
    ) -> Self:
        """FAILED_PRECONDITION: the state of things does not allow it."""
        return cls(grpc.StatusCode.FAILED_PRECONDITION, reason, message, metadata=metadata)

    @classmethod
    def out_of_range(
        cls, reason: errors_pb2.ErrorReason.ValueType, message: str, **metadata: str
    ) -> Self:
        """OUT_OF_RANGE: what was asked for was removed or is not there yet."""
        return cls(grpc.StatusCode.OUT_OF_RANGE, reason, message, metadata=metadata)

    @classmethod
    def rate_limited(cls, message: str, retry_after: float) -> Self:
        """RESOURCE_EXHAUSTED: too many calls; come back after `retry_after` seconds."""
        return cls(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            errors_pb2.ERROR_REASON_RATE_LIMITED,
            message,
            retry_after=retry_after,
        )

    @classmethod
    def overloaded(cls, message: str, retry_after: float) -> Self:
        """RESOURCE_EXHAUSTED: no more work is taken now; come back after `retry_after` seconds."""
        return cls(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            errors_pb2.ERROR_REASON_OVERLOADED,
            message,
            retry_after=retry_after,
        )

    @classmethod
    def quota_exceeded(cls, quotas: Sequence[QuotaViolation]) -> Self:
        """RESOURCE_EXHAUSTED: these quotas are used up."""
        return cls(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
            "; ".join(quota.description for quota in quotas[:5]),
            quotas=quotas,
        )

    @classmethod
    def unavailable(cls, service: str, detail: str = "", retry_after: float | None = None) -> Self:
        """UNAVAILABLE: `service` cannot be reached."""
        return cls(
            grpc.StatusCode.UNAVAILABLE,
            errors_pb2.ERROR_REASON_SERVICE_UNAVAILABLE,
            f"{service} is not available" + (f": {detail}" if detail else ""),
            metadata={"service": service},
            retry_after=retry_after,
        )

    @classmethod
    def outcome_unknown(cls, request_id: str) -> Self:
        """ABORTED: a request that must not be carried out twice may have been carried out."""
        return cls(
            grpc.StatusCode.ABORTED,
            errors_pb2.ERROR_REASON_OUTCOME_UNKNOWN,
            "this request was begun before, and nobody knows how far it came: it is not repeated;"
            " look at what is there, and ask under a new request_id for what is missing",
            metadata={"request_id": request_id},
        )

    @classmethod
    def draining(cls, retry_after: float = DRAINING_RETRY_SECONDS) -> Self:
        """UNAVAILABLE: this replica shuts down; another one, or its successor, will answer."""
        return cls(
            grpc.StatusCode.UNAVAILABLE,
            errors_pb2.ERROR_REASON_DRAINING,
            "the service is shutting down; call again",
            retry_after=retry_after,
        )

    @classmethod
    def unimplemented(cls, method: str) -> Self:
        """UNIMPLEMENTED: `method` ("package.Service/Method") is not served here."""
        return cls(
            grpc.StatusCode.UNIMPLEMENTED,
            errors_pb2.ERROR_REASON_UNIMPLEMENTED,
            f"{method} is not served by this version",
            metadata={"method": method},
        )

    @classmethod
    def internal(cls, reference: str) -> Self:
        """INTERNAL: a defect; `reference` finds it in the log."""
        return cls(
            grpc.StatusCode.INTERNAL,
            errors_pb2.ERROR_REASON_INTERNAL,
            f"internal error; the log has more under {reference}",
            metadata={"reference": reference},
        )


def reason_name(reason: errors_pb2.ErrorReason.ValueType) -> str:
    """The name without its prefix; "UNSPECIFIED" for reasons this version does not know."""
    known = reason in errors_pb2.ErrorReason.values()
    name = errors_pb2.ErrorReason.Name(reason if known else errors_pb2.ERROR_REASON_UNSPECIFIED)
    return name.removeprefix(REASON_PREFIX)
