"""Counts the gateway's calls, over whichever edge they come."""

from __future__ import annotations

import time

from meshkit.metrics import Metrics
from meshkit.served_call import CallListener, ServedCall


class CallFigures:
    """A listener that counts, and tells another one."""

    def __init__(self, metrics: Metrics, inner: CallListener | None) -> None:
        self._inner = inner
        self._calls = metrics.counter(
            "agentmesh_gateway_calls", "Calls of the public API.", "method", "code"
        )
        self._seconds = metrics.seconds(
            "agentmesh_gateway_call_seconds", "How long calls take, streams to their end.", "method"
        )

    async def admitted(self, call: ServedCall) -> None:
        """Nothing to count yet."""
        if self._inner is not None:
            await self._inner.admitted(call)

    def ended(self, call: ServedCall) -> None:
        """One more call."""
        method = call.rules.short_name
        self._calls.add(method, call.code.name)
        self._seconds.add(method, value=time.perf_counter() - call.started)
        if self._inner is not None:
            self._inner.ended(call)
