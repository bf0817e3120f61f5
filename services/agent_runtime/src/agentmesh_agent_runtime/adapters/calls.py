"""Calls of a worker that must arrive: repeated while a service restarts, and failures sorted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import stamina
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError, from_rpc_error
from meshkit.identity import CAPABILITY_HEADER

from agentmesh_agent_runtime.turns.failures import (
    BudgetExhausted,
    DayUsedUp,
    LeaseLost,
    ReplayDiverged,
    ServiceUnreachable,
    TurnCrashed,
)

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""How long a worker tries; long before that its lease has ended unless the store is down."""
DAY_RETRY_SECONDS = 60.0
"""How long a run at the end of its tenant's daily budget waits before it looks again."""
_TENANT_DAY = "tenant_day"

_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_FOR_GOOD = frozenset(
    {
        errors_pb2.ERROR_REASON_BUDGET_EXHAUSTED,
        errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
        errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE,
    }
)
_LEASE_IS_GONE = frozenset(
    {
        errors_pb2.ERROR_REASON_STALE_FENCE,
        errors_pb2.ERROR_REASON_ALREADY_ENDED,
        errors_pb2.ERROR_REASON_TURN_GAP,
        errors_pb2.ERROR_REASON_TURN_CONFLICT,
        errors_pb2.ERROR_REASON_NOT_FOUND,
    }
)
_DIVERGED = frozenset(
    {errors_pb2.ERROR_REASON_REPLAY_DIVERGED, errors_pb2.ERROR_REASON_STEP_CONFLICT}
)


def capability_metadata(capability: str) -> tuple[tuple[str, str], ...]:
    """The metadata under which a worker's writes are judged."""
    return ((CAPABILITY_HEADER, capability),)


async def insist(
    call: Callable[[], Awaitable[T]], *, seconds: float = PATIENCE_SECONDS, wait_max: float = 1.0
) -> T:
    """Makes a call that may safely be repeated until it is answered.

    Raises what `failure_of` makes of the answer, or of the last one after `seconds`.
    """
    try:
        async for attempt in stamina.retry_context(
            on=_passes, attempts=None, timeout=seconds, wait_initial=0.05, wait_max=wait_max
        ):
            with attempt:
                return await call()
    except grpc.aio.AioRpcError as error:
        raise failure_of(error) from error
    raise AssertionError("unreachable")  # pragma: no cover


def failure_of(error: grpc.aio.AioRpcError) -> Exception:
    """What a failed call means for the turn."""
    found = from_rpc_error(error)
    if found.reason in _LEASE_IS_GONE:
        return LeaseLost(found.message)
    if found.reason in _DIVERGED:
        return ReplayDiverged(found.message)
    if found.metadata.get("budget") == _TENANT_DAY:
        # Its end is the latest time to try again: open steps may turn out to cost less.
        wait = min(found.retry_after or DAY_RETRY_SECONDS, DAY_RETRY_SECONDS)
        return DayUsedUp(found.message, retry_after=wait)
    if found.reason == errors_pb2.ERROR_REASON_BUDGET_EXHAUSTED:
        left = found.metadata.get("remaining_tokens", "")
        return BudgetExhausted(found.message, remaining_tokens=int(left) if left.isdigit() else 0)
    if error.code() in _PASSING and found.reason not in _FOR_GOOD:
        return ServiceUnreachable(found.message, retry_after=found.retry_after)
    return TurnCrashed(f"{found.code.name}: {found.message}")


def _passes(error: Exception) -> bool | float:
    if not isinstance(error, grpc.aio.AioRpcError) or error.code() not in _PASSING:
        return False
    found: MeshError = from_rpc_error(error)
    if found.reason in _FOR_GOOD:
        return False
    wait: Any = found.retry_after
    return True if wait is None else min(float(wait), 1.0)
