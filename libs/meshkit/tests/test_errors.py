"""The error model without a network."""

from __future__ import annotations

import grpc
import pytest
from agentmesh.common.v1 import errors_pb2
from google.rpc import error_details_pb2
from meshkit.errors import (
    FieldViolation,
    MeshError,
    QuotaViolation,
    from_rich_status,
    from_rpc_error,
    http_status,
    to_rich_status,
)

ERRORS = [
    MeshError.invalid("team.agents[0]", "must be known"),
    MeshError.malformed("not JSON"),
    MeshError.message_too_large(10, 20),
    MeshError.credentials_missing("send a key"),
    MeshError.credentials_invalid(),
    MeshError.role_too_low("admin", "viewer"),
    MeshError.internal_only("no"),
    MeshError.capability_required("no"),
    MeshError.not_found("agent", "x"),
    MeshError.already_exists("key", "k", errors_pb2.ERROR_REASON_REQUEST_ID_REUSED),
    MeshError.stale_fence("run_1", 1, 2),
    MeshError.etag_mismatch("agent", "x", "e2"),
    MeshError.precondition(errors_pb2.ERROR_REASON_TURN_GAP, "gap", expected_turn="3"),
    MeshError.out_of_range(errors_pb2.ERROR_REASON_HISTORY_REMOVED, "gone", oldest_sequence="9"),
    MeshError.rate_limited("slow down", 1.5),
    MeshError.overloaded("full", 2),
    MeshError.quota_exceeded([QuotaViolation("tenant:acme", "100 runs a day")]),
    MeshError.unavailable("tool_runner", "refused", 1),
    MeshError.draining(),
    MeshError.unimplemented("a.B/C"),
    MeshError.internal("err_1"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.reason_name)
def test_every_error_makes_the_round_trip(error: MeshError) -> None:
    back = from_rich_status(to_rich_status(error))
    for name in ("code", "reason", "message", "metadata", "violations", "resource", "quotas"):
        assert getattr(back, name) == getattr(error, name), name
    assert back.retry_after == error.retry_after
    info = error_details_pb2.ErrorInfo()
    assert to_rich_status(error).details[0].Unpack(info)
    assert info.domain == "agentmesh.dev"


def test_a_status_stays_small_enough_for_metadata() -> None:
    violations = [FieldViolation(f"field[{n}]", "x" * 5000) for n in range(500)]
    status = to_rich_status(MeshError.invalid_fields(violations))
    assert status.ByteSize() < 8000
    assert from_rich_status(status).violations[0].field == "field[0]"


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (5000 vs. 4096)",
            "MESSAGE_TOO_LARGE",
        ),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "?", "OVERLOADED"),
        (grpc.StatusCode.UNAVAILABLE, "connection refused", "SERVICE_UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.CANCELLED, "", "CANCELLED"),
        (grpc.StatusCode.UNIMPLEMENTED, "", "UNIMPLEMENTED"),
    ],
)
def test_errors_of_grpc_itself_get_a_reason(
    code: grpc.StatusCode, details: str, reason: str
) -> None:
    bare = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
    error = from_rpc_error(bare)
    assert (error.code, error.reason_name) == (code, reason)


def test_garbage_in_the_details_is_no_error_of_its_own() -> None:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    bare = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailing, "gone")
    assert from_rpc_error(bare).reason_name == "NOT_FOUND"


def test_every_code_has_an_http_status() -> None:
    assert all(200 <= http_status(code) < 600 for code in grpc.StatusCode)
    assert http_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE") == 413
