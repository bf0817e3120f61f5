"""What a run may still consume: its own budget and those of the runs above it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce

from .model import Run
from .rejections import Reason, Rejection
from .runs import ancestors
from .usage import NO_USAGE, Usage

_MEASURES = (("max_tokens", "tokens"), ("max_cost_micros", "cost_micros"))


def require_budget(known: Mapping[str, Run], run: Run, reservation: Usage) -> None:
    """Refuses a reservation that does not fit. `known` holds the run and, of a child, all live
    ones of its conversation."""
    for budget, bound, measure, bounded, held in _bounds(known, run):
        wanted = getattr(reservation, measure)
        if held >= bound or held + wanted > bound:
            raise Rejection(
                Reason.BUDGET_EXHAUSTED,
                f"{bounded.run_id} used or reserved {held} of {bound} {measure.replace('_', ' ')}",
                budget=f"run.{budget}",
                run_id=bounded.run_id,
                **_what_is_left(known, run),
            )


def _what_is_left(known: Mapping[str, Run], run: Run) -> dict[str, str]:
    """So that who asked for more may ask for that."""
    left = remaining_tokens(known, run)
    return {} if left is None else {"remaining_tokens": str(left)}


def remaining_tokens(known: Mapping[str, Run], run: Run) -> int | None:
    """What is left of the tightest budget; None if nothing bounds it."""
    left = [
        max(0, bound - held)
        for _, bound, measure, _, held in _bounds(known, run)
        if measure == "tokens"
    ]
    return min(left, default=None)


def _bounds(known: Mapping[str, Run], run: Run) -> Iterator[tuple[str, int, str, Run, int]]:
    """(budget, bound, measure, the run it binds, what that one used and reserved)."""
    for bounded in (run, *ancestors(known, run)):
        for budget, measure in _MEASURES:
            bound = getattr(bounded.budget, budget)
            if bound is not None:
                reserved = getattr(_reserved(known, bounded), measure)
                yield budget, bound, measure, bounded, getattr(bounded.usage, measure) + reserved


def _reserved(known: Mapping[str, Run], top: Run) -> Usage:
    """What open steps of the run and of those below it may cost."""
    open_steps = (
        run.reserved
        for run in known.values()
        if run.run_id == top.run_id
        or any(above.run_id == top.run_id for above in ancestors(known, run))
    )
    return reduce(Usage.plus, open_steps, NO_USAGE)
