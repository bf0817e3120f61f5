"""Path templates of `google.api.http`: literals, `{field}`, `{field=**}` and a final `:verb`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

_VARIABLE = re.compile(r"\{(?P<field>[a-z][a-z0-9_]*)(=(?P<pattern>\*\*?))?\}")


class SegmentKind(IntEnum):
    """In the order in which a router tries them."""

    LITERAL = 0
    ONE = 1
    REST = 2


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a template. `text` is the literal, or the path of the bound field."""

    kind: SegmentKind
    text: str


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A parsed template."""

    text: str
    segments: tuple[Segment, ...]

    @property
    def variables(self) -> tuple[str, ...]:
        """The fields that the path binds, in order."""
        return tuple(part.text for part in self.segments if part.kind is not SegmentKind.LITERAL)


def parse_template(text: str) -> PathTemplate:
    """Parses a template; raises ValueError for what this edge does not serve."""
    if not text.startswith("/"):
        raise ValueError(f"the path {text!r} does not begin with a slash")
    segments = tuple(_segment(part, text) for part in text[1:].split("/"))
    if any(part.kind is SegmentKind.REST for part in segments[:-1]):
        raise ValueError(f"the path {text!r} has ** before its last segment")
    return PathTemplate(text, segments)


def _segment(part: str, template: str) -> Segment:
    variable = _VARIABLE.fullmatch(part)
    if variable is not None:
        kind = SegmentKind.REST if variable["pattern"] == "**" else SegmentKind.ONE
        return Segment(kind, variable["field"])
    if not part or set(part) & set("{}*"):
        raise ValueError(f"the path {template!r} has the segment {part!r}, which is not understood")
    return Segment(SegmentKind.LITERAL, part)
