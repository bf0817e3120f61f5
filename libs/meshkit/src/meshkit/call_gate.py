"""What stands between a call and a busy server."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from meshkit.context import Principal
from meshkit.policy import MethodRules
from meshkit.served_call import ServedCall


class CallGate(Protocol):
    """Lets calls in, or does not. What it raises is the call's answer."""

    def arrive(self, call: ServedCall) -> None:
        """Before anything is done for the call, when all that is known is its method. Raises
        MeshError."""

    def limit(self, call: ServedCall) -> Awaitable[None] | None:
        """When it is known for whom the call is. Raises MeshError, at once or when awaited."""

    async def expect(self, rules: MethodRules, principal: Principal) -> None:
        """When a request has come of which a call of this task will be made, and its body is not
        read yet: what `limit` would take is taken now. Raises MeshError."""

    def leave(self, call: ServedCall) -> None:
        """When the call is over; also if it was never let in."""
