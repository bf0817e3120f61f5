"""What is made of the failures of components."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final, TypeVar

from agentmesh_agent_runtime.components import plain
from agentmesh_agent_runtime.turns.failures import (
    ComponentFailed,
    HandedOver,
    LeaseLost,
    Suspended,
    TurnFailure,
    TurnStopped,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

STATE_SECONDS: Final = 30.0
"""For what is asked of a component between turns, where no watchdog looks."""

_OURS = (TurnFailure, TurnStopped, LeaseLost, HandedOver, Suspended)


async def reported(what: str, work: Awaitable[T], within: float | None = None) -> T:
    """Awaits what a component does, at most `within` seconds; its failures say whose they are and
    quote nothing."""
    try:
        async with asyncio.timeout(within):
            return await work
    except _OURS:
        raise
    except (Exception, SystemExit) as error:
        log.error("the %s failed", what, exc_info=error)
        raise ComponentFailed(f"the {what} failed: {plain(error)}") from None
