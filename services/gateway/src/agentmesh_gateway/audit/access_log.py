"""One line for each call."""

from __future__ import annotations

import logging
import random
import time

import grpc
from google.protobuf.message import Message
from meshkit.served_call import ServedCall

from agentmesh_gateway.audit.resources import resource_of

logger = logging.getLogger("agentmesh.access")


class AccessLog:
    """Every call that may change something and every call that failed; of the others a share."""

    def __init__(self, reads: float) -> None:
        self._reads = reads

    def note(self, call: ServedCall) -> None:
        """Logs a call that is over. The line has ids and sizes, and nothing of what was said."""
        plain_read = not call.rules.changes and call.code is grpc.StatusCode.OK
        if plain_read and random.random() >= self._reads:  # noqa: S311  a sample, no secret
            return
        principal = call.principal
        logger.info(
            "%s %s",
            call.rules.full_name,
            call.code.name,
            extra={
                "method": call.rules.full_name,
                "code": call.code.name,
                "reason": call.reason,
                "duration_ms": round((time.perf_counter() - call.started) * 1000, 3),
                "principal": principal.subject if principal else "",
                "tenant": principal.tenant if principal else "",
                "resource": resource_of(call.request),
                "peer": call.peer,
                "request_bytes": _size(call.request),
                "response_bytes": _size(call.response),
            },
        )


def _size(message: Message | bytes | None) -> int:
    if message is None:
        return 0
    return len(message) if isinstance(message, bytes) else message.ByteSize()
