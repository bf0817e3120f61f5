"""Fan-out for one replica."""

from __future__ import annotations

import logging

from .interface import Listener, Notice

_log = logging.getLogger(__name__)


class InProcessFanout:
    """Calls the listeners at once."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def publish(self, notice: Notice) -> None:
        """See `Fanout`."""
        for listener in self._listeners:
            try:
                listener(notice)
            except Exception:  # one listener's defect must not keep the others from hearing
                _log.exception("a listener failed on %s", type(notice).__name__)

    def listen(self, listener: Listener) -> None:
        """See `Fanout`."""
        self._listeners.append(listener)
