"""What an attack is: code that tries something, and how a sandbox is to answer it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

SETTINGS_VARIABLE = "ABUSE_SETTINGS"


class StoppedError(Exception):
    """The attack came to nothing, and no error number says why."""


class NotHereError(Exception):
    """This machine has nothing of what the attack is about."""


@dataclass(frozen=True)
class Attack:
    """One attack.

    `run` returns what it won, or raises OSError or StoppedError. It is stopped if it ends with one
    of the answers `stopped_by` (names of error numbers, of signals, or words of a StoppedError),
    and contained if its execution ends for one of the reasons `contained_by`. `outside` says why it
    is not shown at work outside of a sandbox; `outside_answer` is what shows there that the kernel
    took it up, where its full effect would harm the machine.
    """

    name: str
    family: str
    run: Callable[[], str]
    means: str
    stopped_by: tuple[str, ...] = ()
    contained_by: tuple[str, ...] = ()
    outside: str = ""
    outside_answer: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)

    @property
    def what(self) -> str:
        return (self.run.__doc__ or "").strip()


ATTACKS: dict[str, Attack] = {}


def attack(family: str, **fields: Any) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Enters a function as an attack under its own name."""

    def enter(run: Callable[[], str]) -> Callable[[], str]:
        name = run.__name__.strip("_")
        if name in ATTACKS:
            raise ValueError(f"there are two attacks {name}")
        ATTACKS[name] = Attack(name, family, run, **fields)
        return run

    return enter


def settings() -> dict[str, Any]:
    """What the stage told the attacker: names and numbers that a real one would have to guess."""
    told: dict[str, Any] = json.loads(os.environ.get(SETTINGS_VARIABLE, "{}"))
    return told
