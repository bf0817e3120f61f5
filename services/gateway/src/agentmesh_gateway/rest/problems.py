"""Where in a document something is wrong, and what."""

from __future__ import annotations

from dataclasses import dataclass

MAX_DEPTH = 30
"""JSON containers within each other. Protobuf parsers stop at 100 levels, and one level of a
`google.protobuf.Struct` takes three."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request. `field` is "" for the document as a whole."""

    field: str
    description: str


class Path:
    """A place in a document, formatted only if something is wrong there."""

    __slots__ = ("_parent", "_step", "depth")

    def __init__(self, parent: Path | None = None, step: str | int = "") -> None:
        self._parent = parent
        self._step = step
        self.depth: int = 0 if parent is None else parent.depth + 1

    def field(self, name: str) -> Path:
        """The field `name` of the message at this place."""
        return Path(self, name)

    def index(self, position: int) -> Path:
        """The element `position` of the list at this place."""
        return Path(self, position)

    def key(self, key: str) -> Path:
        """The entry `key` of the map at this place."""
        return Path(self, f'["{key}"]')

    def __str__(self) -> str:
        steps: list[str] = []
        node: Path | None = self
        while node is not None and node._parent is not None:
            steps.append(f"[{node._step}]" if isinstance(node._step, int) else node._step)
            node = node._parent
        text = ""
        for step in reversed(steps):
            text += step if not text or step.startswith("[") else f".{step}"
        return text


class Problems:
    """Collects what is wrong, so that one answer names all of it."""

    LIMIT = 20

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, path: Path | str, description: str) -> None:
        """Notes that `path` is wrong. Beyond `LIMIT` nothing more is noted."""
        if len(self._found) < self.LIMIT:
            self._found.append(Problem(str(path), description))

    def too_deep(self, path: Path) -> bool:
        """True, and noted, if `path` lies deeper than documents may be nested."""
        if path.depth <= MAX_DEPTH:
            return False
        self.add(path, f"is nested deeper than {MAX_DEPTH} levels")
        return True

    @property
    def found(self) -> tuple[Problem, ...]:
        """In the order in which they were found."""
        return tuple(self._found)

    def __bool__(self) -> bool:
        return bool(self._found)
