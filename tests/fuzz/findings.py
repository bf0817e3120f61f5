"""What a fuzz run is made of, and what it found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

MOST_SHOWN = 15


def random_of(seed: int, edge: str, number: int) -> Random:
    """What one request of a run is made from: the same in every run with that seed."""
    return Random(f"{seed}/{edge}/{number}")


@dataclass
class Findings:
    """Counts answers, and keeps those that must not be."""

    seed: int
    answers: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    ok: set[str] = field(default_factory=set)
    """Methods that did what a request asked for."""
    wrong: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Requests that were answered or seen to fail."""
        return self.answers.total()

    def note(self, method: str, answer: str) -> None:
        """An answer to a request for a method."""
        self.answers[answer] += 1
        self.methods[method] += 1
        if answer in ("OK", "200"):
            self.ok.add(method)

    def blame(self, edge: str, number: int, what: str, request: object) -> None:
        """Something that must not be."""
        kind = f"{edge}: {what[:80]}"
        self.kinds[kind] += 1
        if self.kinds[kind] <= 2:
            where = f"seed {self.seed}, {edge} request {number}"
            self.wrong.append(f"{where}: {what}\n    {str(request)[:1500]}")

    def text(self) -> str:
        """For people."""
        lines = [f"seed {self.seed}: {self.count} requests, {dict(self.answers.most_common())}"]
        lines += [f"{count} times: {kind}" for kind, count in self.kinds.most_common()]
        return "\n".join([*lines, *self.wrong[:MOST_SHOWN]])
