"""How far a run of a staged team has come, told from its committed turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

PENDING, RUNNING, WAITING, COMPLETED, FAILED = (
    "pending",
    "running",
    "waiting",
    "completed",
    "failed",
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where one stage stands: in its newest round, if it had one."""

    name: str
    status: str
    started_at: datetime | None = None
    completed_at: datetime | None = None


def progress_of(
    stages: Sequence[str],
    rounds: int,
    started_at: datetime,
    commits: Sequence[datetime],
    run_status: str,
) -> list[Progress]:
    """Each round is a turn of one stage, and after the last stage the first one comes again.

    `commits` are the times at which the last of the `rounds` were committed, oldest first; earlier
    ones may be missing. `run_status` is RUNNING or WAITING while the run is under way, else
    COMPLETED or FAILED.
    """
    found = [Progress(name, PENDING) for name in stages]
    first = max(rounds - len(commits), 0)
    begun = started_at if first == 0 else None
    for turn, ended_at in enumerate(commits, start=first):
        place = turn % len(stages)
        found[place] = Progress(stages[place], COMPLETED, begun, ended_at)
        begun = ended_at
    if run_status != COMPLETED:
        place = rounds % len(stages)
        found[place] = Progress(stages[place], run_status, begun)
    return found


def reached(stages: Sequence[Progress]) -> str:
    """The stage at work, else the one that ended last; "" before the first."""
    for stage in stages:
        if stage.status in (RUNNING, WAITING, FAILED):
            return stage.name
    ended = [stage for stage in stages if stage.completed_at is not None]
    return max(ended, key=lambda stage: str(stage.completed_at)).name if ended else ""
