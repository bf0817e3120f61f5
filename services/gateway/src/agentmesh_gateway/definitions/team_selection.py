"""Who takes part in a conversation, decided on names alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One field of a request that cannot be accepted, and what to write instead."""

    field: str
    description: str


def listing(names: Sequence[str]) -> str:
    """Names for an error message, at most twenty of them."""
    shown = ", ".join(names[:SHOWN_NAMES])
    return f"{shown} and more" if len(names) > SHOWN_NAMES else shown or "none"


def repeated_agents(listed: Sequence[str]) -> list[Fault]:
    """A fault for each agent that was listed before."""
    first: dict[str, int] = {}
    faults: list[Fault] = []
    for position, name in enumerate(listed):
        earlier = first.setdefault(name, position)
        if earlier != position:
            faults.append(
                Fault(f"agents[{position}]", f'"{name}" stands in agents[{earlier}] already')
            )
    return faults


def unknown_agents(
    listed: Sequence[str], found: Collection[str], known: Sequence[str]
) -> list[Fault]:
    """A fault for each listed agent that was not found; `known` are some that would be."""
    return [
        Fault(
            f"agents[{position}]",
            f'there is no agent "{name}"; known agents: {listing(known)}',
        )
        for position, name in enumerate(listed)
        if name not in found
    ]


def outsiders(listed: Sequence[str], team: str, members: Sequence[str]) -> list[Fault]:
    """A fault for each listed agent that is no member of the team."""
    return [
        Fault(
            f"agents[{position}]",
            f'"{name}" is no member of "{team}"; its members: {listing(members)}',
        )
        for position, name in enumerate(listed)
        if name not in members
    ]


def missing_closers(listed: Sequence[str], team: str, closers: Sequence[str]) -> list[Fault]:
    """A fault if nobody would be left to say what ends the team: `closers` are those who do."""
    missing = [name for name in closers if name not in listed]
    if not missing:
        return []
    description = (
        f'"{team}" ends by what {listing(missing)} says, and could not run without; '
        f"list {listing(missing)} too, or no agents"
    )
    return [Fault("agents", description)]


def left_out(listed: Sequence[str], team: str, members: Sequence[str]) -> list[Fault]:
    """A fault if a team that needs all its members is to work with some of them."""
    missing = [name for name in members if name not in listed]
    if not missing:
        return []
    description = (
        f'"{team}" works with all its members only; list {listing(missing)} too, or no agents'
    )
    return [Fault("agents", description)]
