"""What a turn asks of people, and when nothing else of it is left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from agentmesh_agent_runtime.definitions.approval_policies import DEFAULT_WAIT, ApproverRole
from agentmesh_agent_runtime.turns.runs import RunNeeded

_QUIET_ROUNDS = 100
"""Of the event loop. AutoGen hands a message on within a few of them."""
_PATIENCE_SECONDS = 1.0
"""For calls of a reply that nobody has begun; AutoGen begins all at once."""


@dataclass(frozen=True)
class CallInQuestion:
    """A tool call as the model wrote it."""

    call_id: str
    tool: str
    arguments_json: str


@dataclass(frozen=True)
class PersonNeeded:
    """A request to a person: about a call, or a question in words. Spans are in seconds."""

    approval_id: str
    agent: str
    prompt: str
    call: CallInQuestion | None = None
    role: ApproverRole = ApproverRole.USER
    expires_after: float = DEFAULT_WAIT
    approve_on_expiry: bool = False
    escalate_after: float | None = None
    escalate_to: ApproverRole | None = None

    @property
    def size(self) -> int:
        """About as many bytes as it takes in a message."""
        arguments = self.call.arguments_json if self.call else ""
        return len(self.prompt.encode()) + len(arguments.encode()) + 1000


class Standstill:
    """Knows when all that a turn could do without people and other runs is done.

    An effect is at work between `begin` and `end`. A call of a reply is open until it is carried
    out, or waits for a person.
    """

    def __init__(self) -> None:
        self.needed: list[PersonNeeded] = []
        self.runs: list[RunNeeded] = []
        self.awaits_runs = False
        self._working = 0
        self._open: set[str] = set()
        self._changes = 0
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """An effect begins."""
        self._working += 1
        self._note()

    def end(self) -> None:
        """An effect has ended."""
        self._working -= 1
        self._note()

    def expect(self, call_ids: Iterable[str]) -> None:
        """A reply has these calls."""
        self._open.update(call_ids)
        self._note()

    def close(self, call_id: str) -> None:
        """The call is carried out."""
        self._open.discard(call_id)
        self._note()

    def need(self, call_id: str, needed: PersonNeeded | None) -> None:
        """The call waits for a person; None if that was asked before."""
        if needed is not None:
            self.needed.append(needed)
        self.close(call_id)

    def need_run(self, needed: RunNeeded | None) -> None:
        """A member waits for a run; None if that was started before."""
        self.awaits_runs = True
        if needed is not None:
            self.runs.append(needed)
        self._note()

    async def reached(self) -> None:
        """Returns when nothing is at work and nothing will be."""
        while not await self._is_quiet():
            changed = self._changed
            if self._working:
                await changed.wait()

    async def _is_quiet(self) -> bool:
        changes = self._changes
        for _ in range(_QUIET_ROUNDS):
            await asyncio.sleep(0)
            if self._working or self._changes != changes:
                return False
        if self._open:
            await asyncio.sleep(_PATIENCE_SECONDS)
        return not self._working and self._changes == changes

    def _note(self) -> None:
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()
