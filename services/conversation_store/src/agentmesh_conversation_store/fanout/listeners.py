"""Those who listen in this process."""

from __future__ import annotations

import logging

from .interface import Listener, Notice

_log = logging.getLogger(__name__)


class Listeners:
    """Called at once, one after the other."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def add(self, listener: Listener) -> None:
        """One more."""
        self._listeners.append(listener)

    def tell(self, notice: Notice) -> None:
        """One listener's defect does not keep the others from hearing."""
        for listener in self._listeners:
            try:
                listener(notice)
            except Exception:
                _log.exception("a listener failed on %s", type(notice).__name__)
