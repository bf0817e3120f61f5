"""Whether the mesh serves, and what is missing if it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

SERVING = "serving"

Status = Literal["healthy", "degraded", "unhealthy"]
Probe = Callable[[], Awaitable[str]]
"""Says "serving", or why not. Never raises."""


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict, and the state of each service by name."""

    status: Status
    services: dict[str, str]


async def examine(
    probes: Mapping[str, Probe], *, vital: Collection[str], helpful: Collection[str] = ()
) -> Report:
    """Asks the named services at once.

    Unhealthy if one of `vital` does not serve, degraded if one of `helpful` does not.
    """
    names = [*vital, *helpful]
    answers = await asyncio.gather(*(probes[name]() for name in names))
    services = dict(zip(names, answers, strict=True))
    if any(services[name] != SERVING for name in vital):
        return Report("unhealthy", services)
    if any(services[name] != SERVING for name in helpful):
        return Report("degraded", services)
    return Report("healthy", services)
