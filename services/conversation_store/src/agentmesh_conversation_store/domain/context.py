"""A log read as context: which summaries stand for which of its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from .rejections import Reason, Rejection

Turn = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """An event at `sequence` that may stand for those from `first` to `last`."""

    sequence: int
    first: int
    last: int
    turn: Turn
    """The run and turn that recorded it."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive events of the context: those after `after` up to `through`, which `summary`
    stands for if there is one."""

    after: int
    through: int
    summary: Summary | None = None


def require_range(position: str, sequence: int, first: int, last: int) -> None:
    """Refuses a summary at `sequence` of what is not before it in the log."""
    if not 1 <= first <= last:
        raise Rejection(
            Reason.INVALID_FIELD,
            f"a summary stands for at least one event: {first} to {last} is no range of sequences",
            field=f"{position}.first_sequence",
        )
    if last >= sequence:
        raise Rejection(
            Reason.INVALID_FIELD,
            f"stands for events before it: {last} is not before {sequence}, its own sequence",
            field=f"{position}.last_sequence",
        )


def standing(summaries: Iterable[Summary], discarded: AbstractSet[Turn]) -> Sequence[Summary]:
    """Those that count, by the events they stand for: of two that overlap, the later one."""
    chosen: list[Summary] = []
    for summary in sorted(summaries, key=lambda one: one.sequence, reverse=True):
        overlaps = any(s.first <= summary.last and summary.first <= s.last for s in chosen)
        if summary.turn not in discarded and not overlaps:
            chosen.append(summary)
    return sorted(chosen, key=lambda one: one.first)


def stretches(summaries: Sequence[Summary], after: int, head: int) -> Iterator[Stretch]:
    """The context after a sequence, up to the head. `summaries` are those that count."""
    position = after
    for summary in summaries:
        if summary.last <= position:
            continue
        if summary.first > position + 1:
            yield Stretch(position, summary.first - 1)
        yield Stretch(max(position, summary.first - 1), summary.last, summary)
        position = summary.last
    if position < head:
        yield Stretch(position, head)
