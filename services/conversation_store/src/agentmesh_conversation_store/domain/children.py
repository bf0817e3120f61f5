"""Runs that work for another one, in the same conversation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import runs
from .changes import Transition
from .copying import replace
from .events import UserMessage
from .model import Instant, Micros, Origin, Run
from .rejections import invalid
from .usage import Budget

MAX_DEPTH = 8
MAX_LIVE_RUNS = 1000
_ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class ChildRun:
    """A run to start. `definition` is (digest, bytes), `message_id` names its first input."""

    agent_path: str
    definition: tuple[str, bytes]
    task: str
    message_id: str
    max_rounds: int
    budget: Budget
    timeout: Micros | None = None


def child_run_id(parent_run_id: str, turn: int, agent_path: str) -> str:
    """The same commit again means the same runs; the contract tells how the id is made."""
    name = f"{parent_run_id}/{turn}/{agent_path}"
    return f"run_{hashlib.sha256(name.encode()).hexdigest()[:_ID_DIGITS]}"


def start_children(
    transition: Transition,
    parent: Run,
    turn: int,
    children: Sequence[ChildRun],
    origin: Origin,
    *,
    within_turn: bool = False,
) -> None:
    """Adds the runs, each with its task as first input; paused, if their parent is to be.
    `within_turn` if the parent's turn is suspended for them."""
    if not children:
        return
    _require_room(transition.runs, parent, len(children))
    for child in children:
        transition.definitions.append(child.definition)
        fresh = _fresh(transition, parent, turn, child)
        if within_turn:
            fresh = replace(fresh, asked_in_turn=turn)
        run = runs.start(transition, fresh, origin)
        sequence = transition.append(
            UserMessage(child.message_id, "user", child.task, ""), origin, run.run_id
        )
        run = transition.add_input(run.run_id, sequence)
        if parent.pause_requested:
            runs.pause(transition, run, origin)


def _fresh(transition: Transition, parent: Run, turn: int, child: ChildRun) -> Run:
    own = runs.deadline_of(transition.now, child.timeout, child.budget.max_wall_time)
    return Run(
        tenant=parent.tenant,
        run_id=child_run_id(parent.run_id, turn, child.agent_path),
        conversation_id=parent.conversation_id,
        root_run_id=parent.root_run_id,
        parent_run_id=parent.run_id,
        agent_path=child.agent_path,
        definition_digest=child.definition[0],
        started_at=transition.now,
        max_rounds=child.max_rounds,
        deadline=_within(own, parent.deadline),
        timeout=child.timeout,
        budget=child.budget,
        traceparent=parent.traceparent,
        priority=parent.priority,
        human_input=parent.human_input,
    )


def move_deadlines(transition: Transition, parent: Run) -> None:
    """Lets the limits of live children follow that of their parent, which has changed."""
    for child in runs.live_children(transition, parent):
        own = runs.deadline_of(child.started_at, child.timeout, child.budget.max_wall_time)
        moved = replace(child, deadline=_within(own, parent.deadline))
        move_deadlines(transition, transition.put(moved))


def _within(own: Instant | None, parents: Instant | None) -> Instant | None:
    return min((limit for limit in (own, parents) if limit is not None), default=None)


def _require_room(live: Mapping[str, Run], parent: Run, count: int) -> None:
    depth = len(runs.ancestors(live, parent)) + 1
    if depth > MAX_DEPTH:
        raise invalid("children", f"runs may be nested {MAX_DEPTH} deep")
    alive = sum(not run.status.ended for run in live.values())
    if alive + count > MAX_LIVE_RUNS:
        raise invalid("children", f"a conversation may have {MAX_LIVE_RUNS} runs at a time")
