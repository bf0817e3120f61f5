"""What a refused call means for a turn."""

from __future__ import annotations

import grpc
import pytest
from agentmesh.common.v1 import errors_pb2
from agentmesh_agent_runtime.adapters.calls import DAY_RETRY_SECONDS, failure_of
from agentmesh_agent_runtime.turns.failures import BudgetExhausted, DayUsedUp
from grpc.aio import Metadata
from meshkit.errors import MeshError, to_rich_status


def _refused(budget: str, retry_after: float | None) -> grpc.aio.AioRpcError:
    error = MeshError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors_pb2.ERROR_REASON_BUDGET_EXHAUSTED,
        "used up",
        metadata={"budget": budget},
        retry_after=retry_after,
    )
    details = to_rich_status(error).SerializeToString()
    trailing = Metadata(("grpc-status-details-bin", details))
    return grpc.aio.AioRpcError(error.code, Metadata(), trailing, error.message)


@pytest.mark.parametrize(
    ("midnight", "wait"), [(7200.0, DAY_RETRY_SECONDS), (5.0, 5.0), (None, DAY_RETRY_SECONDS)]
)
def test_a_run_at_the_end_of_its_tenants_day_waits(midnight: float | None, wait: float) -> None:
    failure = failure_of(_refused("tenant_day", midnight))
    assert isinstance(failure, DayUsedUp)
    assert failure.retryable
    assert not failure.counts
    assert failure.retry_after == wait


def test_a_run_at_the_end_of_its_own_budget_ends() -> None:
    failure = failure_of(_refused("run.max_tokens", None))
    assert isinstance(failure, BudgetExhausted)
    assert not failure.retryable
