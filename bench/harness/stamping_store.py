"""The store as it is, in its own process; it also notes when each message was committed.

A message carries the time at which it was sent (`stamp`). When the storage tells that it is safe,
the time since then goes into the file that STAMPS names, in nanoseconds, one line each.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

from agentmesh_conversation_store import __main__ as store
from agentmesh_conversation_store.fanout.announcer import Announcer
from agentmesh_conversation_store.storage.interface import Committed

from bench.harness.subscribers import stamped_at

STAMPS_VARIABLE = "AGENTMESH_BENCH_STAMPS"
_LATER = 0.002


class CommitTimes:
    """Reads what a stamping store notes in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0

    async def take(self, count: int) -> list[float]:
        """Milliseconds from the sending to the commit of the next `count` messages; waits for the
        last one, which is noted after it was told."""
        while len(lines := self._lines()) < count:  # noqa: ASYNC110  another process writes it
            await asyncio.sleep(0.01)
        self._read += count
        return [int(line) / 1e6 for line in lines[:count]]

    def _lines(self) -> list[str]:
        noted = self._file.read_text() if self._file.exists() else ""
        return noted.splitlines()[self._read :]


def main() -> None:
    """The store's command, whose announcements are stamped before they are made."""
    file = Path(os.environ[STAMPS_VARIABLE]).open("a", buffering=1)  # noqa: SIM115  the process's
    announce = Announcer.__call__

    def note(group: Sequence[Committed], committed_at: int) -> None:
        for one in group:
            for event in one.events:
                sent = stamped_at(event.data)
                if sent is not None:
                    file.write(f"{committed_at - sent}\n")

    def stamped(self: Announcer, group: Sequence[Committed]) -> None:
        committed_at = time.monotonic_ns()
        announce(self, group)
        # Written when the subscribers have been served, so that it is no part of what is measured.
        asyncio.get_running_loop().call_later(_LATER, note, group, committed_at)

    Announcer.__call__ = stamped  # type: ignore[method-assign]  # a measuring point
    store.main()


if __name__ == "__main__":
    main()
