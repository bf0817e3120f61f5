"""Operations for those who may not do everything: decided on what they may, under the same lock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from .access import Access, Caller, Grant, require
from .changes import Command, Decision, Loaded, Lookup, Scope
from .model import Instant

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Guarded(Generic[R]):
    """A command that is refused unless its caller has the access that it needs."""

    command: Command[R]
    caller: Caller
    needed: Access

    @property
    def scope(self) -> Scope:
        """That of the command, with what is shared with the caller."""
        scope = self.command.scope
        return replace(scope, lookups=(*scope.lookups, *self._grants(scope)))

    def decide(self, loaded: Loaded, now: Instant) -> Decision[R]:
        """What does not exist is left to the command to say."""
        scope = self.command.scope
        if loaded.conversation is not None:
            found = [loaded.found.get(lookup) for lookup in self._grants(scope)]
            granted = max((g.access for g in found if isinstance(g, Grant)), default=None)
            allowed = self.caller.may(loaded.conversation, granted)
            require(scope.conversation_id, allowed, self.needed)
        return self.command.decide(loaded, now)

    def _grants(self, scope: Scope) -> tuple[Lookup, ...]:
        return tuple(
            Lookup(Grant, (scope.conversation_id, grantee)) for grantee in self.caller.grantees
        )


def guarded(command: Command[R], caller: Caller, needed: Access) -> Command[R]:
    """The command, as the caller may give it."""
    return command if caller.sees_all else Guarded(command, caller, needed)
