"""What a stream's requests cost that become no calls of their own: pings, and what is refused.

Whoever has used up their calls is told so, and then not listened to until the next one is due. So
a flood of requests goes no quicker than calls may, and waits in its sender's buffers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from agentmesh.common.v1 import errors_pb2
from meshkit.context import Principal
from meshkit.errors import MeshError

Toll: TypeAlias = Callable[[Principal], Awaitable[None]]
"""Takes one call from the shares of a principal. Raises MeshError RATE_LIMITED."""

_LONGEST_SECONDS = 1.0


async def hold_back(refusal: MeshError) -> None:
    """Waits until the caller may call again, a second at most, if that is why it was refused."""
    if refusal.reason == errors_pb2.ERROR_REASON_RATE_LIMITED:
        await asyncio.sleep(min(refusal.retry_after or 0.0, _LONGEST_SECONDS))
