"""Those who listen in this process."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

from .interface import Notice

_log = logging.getLogger(__name__)

N = TypeVar("N")


class Listeners:
    """Called at once, one after the other, each for the kind of notice that it wants."""

    def __init__(self) -> None:
        self._listeners: defaultdict[type, list[Callable[[Any], None]]] = defaultdict(list)

    def add(self, kind: type[N], listener: Callable[[N], None]) -> None:
        """One more."""
        self._listeners[kind].append(listener)

    def tell(self, notice: Notice) -> None:
        """One listener's defect does not keep the others from hearing."""
        for listener in self._listeners[type(notice)]:
            try:
                listener(notice)
            except Exception:
                _log.exception("a listener failed on %s", type(notice).__name__)
