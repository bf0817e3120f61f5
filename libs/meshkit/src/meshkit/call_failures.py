"""How a call ends that fails: its status, its mark on the span, its line in the log."""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

import grpc
from agentmesh.common.v1 import errors_pb2
from opentelemetry.trace import Status, StatusCode

from meshkit.active_calls import ActiveCalls
from meshkit.admission import ServicerContext
from meshkit.errors import STATUS_DETAILS_KEY, MeshError, from_rpc_error, to_rich_status
from meshkit.ids import new_id
from meshkit.served_call import ServedCall
from meshkit.telemetry import STATUS_ATTRIBUTE

logger = logging.getLogger(__name__)

_NOT_IMPLEMENTED = "Method not implemented!"  # what generated servicers raise
_LOG_LEVELS = {
    grpc.StatusCode.INTERNAL: logging.ERROR,
    grpc.StatusCode.UNKNOWN: logging.ERROR,
    grpc.StatusCode.DATA_LOSS: logging.ERROR,
    grpc.StatusCode.UNAVAILABLE: logging.WARNING,
    grpc.StatusCode.CANCELLED: logging.DEBUG,
}
# Callers are told; it is the operator who must do something.
_LOG_LEVELS_OF_REASONS = {
    errors_pb2.ERROR_REASON_STORAGE_FULL: logging.ERROR,
    # A line for each would make a flood of calls a flood of lines; the gate sums them up.
    errors_pb2.ERROR_REASON_RATE_LIMITED: logging.DEBUG,
    errors_pb2.ERROR_REASON_REPLICA_OVERLOADED: logging.DEBUG,
}


async def fail(
    call: ServedCall, context: ServicerContext, error: BaseException, calls: ActiveCalls
) -> NoReturn:
    """Ends the call with a rich status; a cancelled one just ends, unless a drain ended it."""
    if isinstance(error, grpc.aio.AbortError):
        _mark(call, context.code(), "")
        raise error
    if isinstance(error, grpc.aio.InternalError):
        # The transport took no response: the caller has left, which is about to be known.
        _mark(call, grpc.StatusCode.CANCELLED, "CANCELLED")
        raise asyncio.CancelledError from error
    if isinstance(error, asyncio.CancelledError):
        if calls.ended_by_drain(call.task):
            failure = MeshError.draining()
        elif context.cancelled() or call.task.cancelling():
            _mark(call, grpc.StatusCode.CANCELLED, "CANCELLED")
            raise error
        else:  # something that the handler waited for was cancelled, not the call
            failure = _internal(call, error)
    elif isinstance(error, Exception):
        failure = _as_mesh_error(call, error)
    else:
        raise error
    _mark(call, failure.code, failure.reason_name)
    _log(call, failure)
    await abort(context, failure)


def _as_mesh_error(call: ServedCall, error: Exception) -> MeshError:
    if isinstance(error, MeshError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc_error(error)
    if isinstance(error, NotImplementedError) and str(error) == _NOT_IMPLEMENTED:
        return MeshError.unimplemented(call.rules.full_name)
    return _internal(call, error)


def _internal(call: ServedCall, error: BaseException) -> MeshError:
    reference = new_id("err")
    failure = MeshError.internal(reference)
    failure.__cause__ = error
    return failure


def _mark(call: ServedCall, code: grpc.StatusCode | int, reason: str) -> None:
    """Notes the outcome. The message stays out: it may quote what a user wrote."""
    status = code if isinstance(code, grpc.StatusCode) else None
    call.failed(status or grpc.StatusCode.UNKNOWN, reason)
    span = call.span
    if span is None:
        return
    number = status.value[0] if status else int(code) if isinstance(code, int) else 2
    span.set_attribute(STATUS_ATTRIBUTE, number)
    name = status.name if status else str(number)
    span.set_status(Status(StatusCode.ERROR, f"{name} {reason}".strip()))


def _log(call: ServedCall, failure: MeshError) -> None:
    """The one line of a failed call; with a traceback if it is a defect."""
    principal = call.principal
    logger.log(
        _LOG_LEVELS_OF_REASONS.get(failure.reason) or _LOG_LEVELS.get(failure.code, logging.INFO),
        "%s failed: %s",
        call.rules.full_name,
        failure,
        exc_info=failure.__cause__ if failure.code is grpc.StatusCode.INTERNAL else None,
        extra={
            "method": call.rules.full_name,
            "code": failure.code.name,
            "reason": failure.reason_name,
            "tenant": principal.tenant if principal else "",
        },
    )


async def abort(context: ServicerContext, failure: MeshError) -> NoReturn:
    """Ends a call with a rich status."""
    status = to_rich_status(failure)
    metadata = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
    try:
        await context.abort(failure.code, status.message, metadata)
    except grpc.aio.InternalError as error:
        # The transport took no status: the caller has left. grpc would log it as our defect.
        raise asyncio.CancelledError from error
