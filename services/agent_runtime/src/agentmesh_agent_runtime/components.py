"""What installed packages add, by entry points that the operator allows."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

CANDIDATE_FUNCTIONS = "agentmesh.candidate_functions"


class ComponentError(ValueError):
    """There is no such component, or it must not be used; the text says what to do."""


class Components:
    """Components by their names. `allowed` are names of distributions, "*" stands for all."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self._allowed = frozenset(allowed)

    def candidate_function(self, name: str) -> Callable[..., Any]:
        """Who may be chosen next, of a selector team: takes the messages, returns names. Raises
        ComponentError."""
        return self._load(CANDIDATE_FUNCTIONS, name)

    def problem(self, group: str, name: str) -> str | None:
        """Why a component cannot be used, or None. Imports nothing."""
        try:
            self._find(group, name)
        except ComponentError as error:
            return str(error)
        return None

    def offered(self, group: str) -> list[tuple[str, str]]:
        """Names of a group and the packages, with versions, that bring them."""
        found = [each for each in entry_points(group=group) if self._is_allowed(each)]
        return sorted(
            (each.name, f"{each.dist.name} {each.dist.version}") for each in found if each.dist
        )

    def _load(self, group: str, name: str) -> Callable[..., Any]:
        found = self._find(group, name)
        try:
            component = found.load()
        except Exception as error:
            raise ComponentError(f"{name!r} cannot be loaded: {type(error).__name__}") from error
        if not callable(component):
            raise ComponentError(f"{name!r} is no function")
        loaded: Callable[..., Any] = component
        return loaded

    def _find(self, group: str, name: str) -> EntryPoint:
        offered = [found for found in entry_points(group=group) if self._is_allowed(found)]
        for found in offered:
            if found.name == name:
                return found
        names = ", ".join(sorted(found.name for found in offered)) or "none"
        raise ComponentError(
            f"no allowed package offers {name!r} as {group}; there are {names}. Install one and "
            "name it in AGENTMESH_COMPONENT_PACKAGES"
        )

    def _is_allowed(self, found: EntryPoint) -> bool:
        return "*" in self._allowed or (found.dist is not None and found.dist.name in self._allowed)
