"""Between the contract's messages and plain values."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from agentmesh.catalog.v1 import tool_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from google.protobuf import duration_pb2

from . import executions
from .languages import Language, LanguageSupport
from .sandbox.model import EndReason, Limits, Outcome, Output, Stream
from .tools.spec import ToolSpec

PROVIDER = "tool_runner"
KEEP_ALIVE_SECONDS: Final = 10.0
LANGUAGES = {
    pb.ExecutionLanguage.Value(f"EXECUTION_LANGUAGE_{language.name}"): language
    for language in Language
}
LANGUAGE_VALUES = {language: value for value, language in LANGUAGES.items()}
_STREAMS = {
    Stream.STDOUT: pb.OUTPUT_STREAM_STDOUT,
    Stream.STDERR: pb.OUTPUT_STREAM_STDERR,
}
_REASONS = {
    reason: pb.ExecutionEndReason.Value(f"EXECUTION_END_REASON_{reason.name}")
    for reason in EndReason
}


def language_info(support: LanguageSupport) -> pb.LanguageInfo:
    """What there is for a language."""
    return pb.LanguageInfo(
        language=LANGUAGE_VALUES[support.language],
        installed=not support.remedy,
        version=support.version,
        compiler=support.compiler,
        remedy=support.remedy,
    )


def limits_of(wanted: pb.ExecutionLimits, default: Limits) -> Limits:
    """What is not set, or 0, takes the default."""
    changes: dict[str, float | int] = {}
    if wanted.HasField("wall_time"):
        changes["wall_seconds"] = wanted.wall_time.ToNanoseconds() / 1e9
    if wanted.HasField("cpu_time"):
        changes["cpu_seconds"] = wanted.cpu_time.ToNanoseconds() / 1e9
    for field, name in (
        ("memory_bytes", "memory_bytes"),
        ("processes", "processes"),
        ("disk_bytes", "workspace_bytes"),
        ("output_bytes", "output_bytes"),
    ):
        if value := getattr(wanted, field):
            changes[name] = value
    if not changes:
        return default
    return replace(default, **changes)  # type: ignore[arg-type]  # names and types as in Limits


def limits_message(limits: Limits) -> pb.ExecutionLimits:
    """All limits that the contract names."""
    return pb.ExecutionLimits(
        wall_time=duration(limits.wall_seconds),
        cpu_time=duration(limits.cpu_seconds),
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        disk_bytes=limits.workspace_bytes,
        output_bytes=limits.output_bytes,
    )


def duration(seconds: float) -> duration_pb2.Duration:
    """Seconds as a Duration."""
    message = duration_pb2.Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def output_chunk(piece: Output) -> pb.OutputChunk:
    """A piece of output."""
    return pb.OutputChunk(stream=_STREAMS[piece.stream], data=piece.data)


def item_message(number: int, item: executions.Item, backend: str) -> pb.ExecutionItem:
    """A numbered item of an execution."""
    message = pb.ExecutionItem(chunk=number)
    match item:
        case executions.Started(execution_id, fresh):
            started = pb.ExecutionStarted(
                execution_id=execution_id, backend=backend, fresh_interpreter=fresh
            )
            message.started.CopyFrom(started)
        case Output():
            message.output.CopyFrom(output_chunk(item))
        case executions.Truncated(kept):
            message.truncated.kept_bytes = kept
        case executions.Finished(outcome):
            message.finished.CopyFrom(finished_message(outcome))
    return message


def finished_message(outcome: Outcome) -> pb.ExecutionFinished:
    """How an execution ended."""
    usage = outcome.usage
    return pb.ExecutionFinished(
        reason=_REASONS[outcome.reason],
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        usage=pb.ExecutionUsage(
            wall_time=duration(usage.wall_seconds),
            cpu_time=duration(usage.cpu_seconds),
            peak_memory_bytes=usage.peak_memory_bytes,
            output_bytes=usage.stdout_bytes + usage.stderr_bytes,
        ),
        detail=outcome.detail,
    )


def keep_alive() -> pb.KeepAlive:
    """A sign of life, now."""
    message = pb.KeepAlive()
    message.time.GetCurrentTime()
    return message


def tool_definition(spec: ToolSpec, timeout_seconds: float) -> tool_pb2.ToolDefinition:
    """A tool as the catalog holds it; `timeout_seconds` is that of tools without one."""
    definition = tool_pb2.ToolDefinition(
        name=spec.name,
        description=spec.description,
        safe_to_repeat=spec.safe_to_repeat,
        timeout=duration(spec.timeout_seconds or timeout_seconds),
        provider=PROVIDER,
        origin=spec.origin,
        retries=spec.retries,
        concurrency=spec.concurrency,
        cacheable=spec.cacheable,
        uses_workspace=spec.uses_workspace,
    )
    definition.parameters.update(spec.parameters)
    if spec.output_schema is not None:
        definition.output_schema.update(spec.output_schema)
    return definition
