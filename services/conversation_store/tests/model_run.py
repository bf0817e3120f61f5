"""What must be true of a run that waits now and then, whatever a storage makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentmesh_conversation_store.domain.model import Instant, Run, WaitKind


@dataclass
class ModelRun:
    """What is true of a run. `unread` are kinds of events, oldest first; the first `seen` of them
    came with the grant. `within` and `parts` are the requests and runs that the turn under way was
    suspended for, `in_turn` is true of such a run."""

    run_id: str
    parent: ModelRun | None = None
    waits: WaitKind | None = None
    wake_at: Instant | None = None
    leased: Run | None = None
    ended: bool = False
    seen: int = 0
    unread: list[str] = field(default_factory=lambda: ["message"])
    pending: dict[str, Instant] = field(default_factory=dict)
    children: list[ModelRun] = field(default_factory=list)
    within: list[str] = field(default_factory=list)
    parts: list[ModelRun] = field(default_factory=list)
    in_turn: bool = False

    @property
    def alive(self) -> list[ModelRun]:
        return [child for child in self.children if not child.ended]

    def hear(self, kind: str, now: Instant) -> None:
        """Something new in the inbox."""
        self.unread.append(kind)
        self.look(now)

    def settle(self, name: str, now: Instant) -> None:
        """A request is decided, or its time ran out."""
        del self.pending[name]
        if name in self.within:
            self.look(now)
        else:
            self.hear("approval_resolved", now)

    def look(self, now: Instant) -> None:
        """Goes on if what it waits for is there."""
        timer = self.wake_at is not None and self.wake_at <= now
        over = {
            WaitKind.APPROVAL: not self.pending,
            WaitKind.CHILDREN: not self.alive,
            WaitKind.TIMER: timer,
        }
        self.waits = None if self.waits and over[self.waits] else self.waits

    def lose(self, child: ModelRun) -> None:
        """A child ended: news of it only if no turn was suspended for it, and for no timer."""
        if not child.in_turn:
            self.unread.append("run_ended")
        if self.waits is WaitKind.CHILDREN and not self.alive:
            self.waits = None

    def end(self) -> None:
        """Ends with everything below it."""
        for child in self.alive:
            child.end()
        self.ended, self.leased, self.waits = True, None, None
        self.pending.clear()
