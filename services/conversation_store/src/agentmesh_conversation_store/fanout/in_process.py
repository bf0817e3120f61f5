"""Fan-out for one replica."""

from __future__ import annotations

from collections.abc import Callable

from .interface import DeltasMade, N, Notice
from .listeners import Listeners


class InProcessFanout:
    """Calls the listeners at once."""

    def __init__(self) -> None:
        self._listeners = Listeners()

    async def start(self) -> None:
        """There is nobody else."""

    async def stop(self) -> None:
        """There is nobody else."""

    def publish(self, notice: Notice) -> None:
        """See `Fanout`."""
        self._listeners.tell(notice)

    def tell(self, replica: str | None, notice: DeltasMade) -> None:
        """There is nobody else."""

    def listen(self, kind: type[N], listener: Callable[[N], None]) -> None:
        """See `Fanout`."""
        self._listeners.add(kind, listener)

    def follow(self, tenant: str, conversation_id: str) -> bool:
        """All there is to hear is heard anyhow."""
        del tenant, conversation_id
        return False

    def unfollow(self, tenant: str, conversation_id: str) -> None:
        """All there is to hear is heard anyhow."""
