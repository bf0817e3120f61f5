"""Notices that something holds up the event loop, and says what.

Code of packages runs on the loop of the replica. Code that does not await holds up every turn
there; no task can notice that, so a thread does.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

from meshkit.metrics import Metrics

log = logging.getLogger(__name__)

_FRAMES_TOLD = 30
_LOOKS_A_SPAN = 2

WhoseTurn = Callable[[FrameType], str]
OnHeldUp = Callable[[bool], None]


class LoopWatch:
    """A thread beside one event loop.

    When the loop has run nothing for `patience` seconds, `on_held_up(True)` is called there,
    and the stack of what holds it up is logged with what `whose_turn` says of it. When it goes on
    `on_held_up(False)` is called.
    """

    def __init__(
        self, metrics: Metrics, whose_turn: WhoseTurn, on_held_up: OnHeldUp, *, patience: float
    ) -> None:
        self._whose_turn = whose_turn
        self._on_held_up = on_held_up
        self._patience = patience
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._held_up = metrics.counter(
            "agentmesh_loop_blocked", "How often code held up the event loop for too long."
        )
        self._seconds = metrics.seconds(
            "agentmesh_loop_blocked_seconds", "For how long code held up the event loop then."
        )

    def start(self) -> None:
        """Watches the loop that runs here from now on."""
        arguments = (asyncio.get_running_loop(), threading.get_ident())
        self._thread = threading.Thread(
            target=self._watch, args=arguments, name="loop-watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Watches no longer."""
        self._stopping.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        while not self._stopping.wait(self._patience / _LOOKS_A_SPAN):
            alive = threading.Event()
            asked_at = time.monotonic()
            try:
                loop.call_soon_threadsafe(alive.set)
            except RuntimeError:  # the loop is closed
                return
            if alive.wait(self._patience) or self._stopping.is_set():
                continue
            try:
                self._held(thread)
                self._await(alive)
            except Exception:
                # Nobody waits for this thread, and nobody else would notice the next time.
                log.exception("the event loop is held up, and that could not be told")
                self._await(alive)
            seconds = time.monotonic() - asked_at
            self._seconds.add(value=seconds)
            self._on_held_up(False)
            log.warning("the event loop goes on after %.1f s", seconds)

    def _held(self, thread: int) -> None:
        self._held_up.add()
        self._on_held_up(True)
        frame = sys._current_frames().get(thread)
        if frame is None:
            return
        stack = "".join(traceback.format_stack(frame)[-_FRAMES_TOLD:])
        log.error(
            "the event loop has been held up for %.1f s by %s;"
            " no turns are taken until it goes on:\n%s",
            self._patience,
            self._whose_turn(frame),
            stack,
        )

    def _await(self, alive: threading.Event) -> None:
        while not alive.wait(self._patience) and not self._stopping.is_set():
            pass
