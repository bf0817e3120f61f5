"""Times, usage and budgets."""

from __future__ import annotations

from dataclasses import replace

from agentmesh.common.v1 import usage_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh_conversation_store.domain.model import Instant, Micros
from agentmesh_conversation_store.domain.usage import ADDITIVE, NO_USAGE, Budget, Usage


def timestamp(instant: Instant) -> Timestamp:
    """As it travels."""
    return Timestamp(seconds=instant // 1_000_000, nanos=instant % 1_000_000 * 1000)


def optional_timestamp(instant: Instant | None) -> Timestamp | None:
    """As it travels; unset stays unset."""
    return None if instant is None else timestamp(instant)


def instant(value: Timestamp) -> Instant:
    """Microseconds since 1970."""
    return value.seconds * 1_000_000 + value.nanos // 1000


def duration(span: Micros) -> Duration:
    """As it travels."""
    return Duration(seconds=span // 1_000_000, nanos=span % 1_000_000 * 1000)


def micros(value: Duration) -> Micros:
    """Microseconds."""
    return value.seconds * 1_000_000 + value.nanos // 1000


def usage_message(usage: Usage) -> usage_pb2.Usage:
    """As it travels."""
    if usage is NO_USAGE:
        return usage_pb2.Usage()
    return usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        model_calls=usage.model_calls,
        tool_calls=usage.tool_calls,
        sandbox_cpu_ms=usage.sandbox_cpu_ms,
        cost_micros=usage.cost_micros,
        estimated=usage.estimated,
    )


def usage(message: usage_pb2.Usage) -> Usage:
    """The store's value. Negative consumption counts as none."""
    numbers = {name: max(0, getattr(message, name)) for name in ADDITIVE}
    found = replace(Usage(**numbers), estimated=message.estimated)
    return NO_USAGE if found == NO_USAGE else found


def budget_message(budget: Budget) -> usage_pb2.Budget:
    """As it travels."""
    wall = budget.max_wall_time
    return usage_pb2.Budget(
        max_turns=budget.max_turns,
        max_wall_time=None if wall is None else duration(wall),
        max_tokens=budget.max_tokens,
        max_cost_micros=budget.max_cost_micros,
    )


def budget(message: usage_pb2.Budget) -> Budget:
    """The store's value."""
    return Budget(
        max_turns=message.max_turns if message.HasField("max_turns") else None,
        max_wall_time=micros(message.max_wall_time) if message.HasField("max_wall_time") else None,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        max_cost_micros=message.max_cost_micros if message.HasField("max_cost_micros") else None,
    )
