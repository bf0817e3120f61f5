"""The cases: how to call each public method so that it succeeds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from tests.support.differential.world import World

Make = Callable[[World], Awaitable[Message | Sequence[Message]]]


@dataclass(frozen=True)
class Case:
    """How to call one method."""

    make: Make
    reads: bool
    """Both calls are about the same, so that the answers are the same to the last byte."""
    items: int = 0
    """How many to take of a stream that does not end."""
    without: frozenset[str] = frozenset()
    """Fields that differ from call to call."""


CASES: dict[str, Case] = {}
"""By the full name of the method without its package."""


def reads(name: str, *, items: int = 0, without: Sequence[str] = ()) -> Callable[[Make], Make]:
    return _case(name, reads=True, items=items, without=without)


def changes(name: str, *, without: Sequence[str] = ()) -> Callable[[Make], Make]:
    return _case(name, reads=False, items=0, without=without)


def _case(name: str, *, reads: bool, items: int, without: Sequence[str]) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        CASES[name] = Case(make, reads, items, frozenset(without))
        return make

    return add
