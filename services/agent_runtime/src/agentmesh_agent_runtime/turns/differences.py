"""What changed between two JSON values, for state whose lists grow at their ends.

A difference is JSON itself, a list that begins with its kind:

    [0, value]                        the value is another one
    [1, keep, [items…]]               a list: its first `keep` items stay, these follow them
    [2, {key: difference}, [keys…]]   an object: the named keys go, then these change or come

The older value need not be at hand: its outline will do, which holds a digest in the place of each
item of a list and each plain value, and so is small however long the texts are.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeAlias

Json: TypeAlias = Any
"""None, bool, int, float, str, list or dict with str keys."""

Outline: TypeAlias = "bytes | list[bytes] | dict[str, Outline]"
"""Of an object those of its values, of a list the digests of its items, of the rest a digest."""

_REPLACE: Final = 0
_LIST: Final = 1
_OBJECT: Final = 2
_MARSHAL_WITHOUT_REFERENCES: Final = 2
"""Later formats depend on how often an object is referred to."""

_written = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str).encode


class UnfitDifference(ValueError):  # noqa: N818  read as a sentence where it is raised
    """The difference was not made for this value, or is none."""


def outline(value: Json) -> Outline:
    """Of anything that JSON can be made of; a tuple counts as a list, other things as their text.

    Two values have the same outline only if they are written alike: 1, 1.0 and true are three
    values.
    """
    if isinstance(value, Mapping):
        return {_key(key): outline(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_digest(item) for item in value]
    return _digest(value)


def _digest(value: Json) -> bytes:
    """Of Python's own serialisation: it is several times as fast as JSON, and as exact."""
    try:
        data = marshal.dumps(value, _MARSHAL_WITHOUT_REFERENCES)
    except ValueError:
        data = _written(value).encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=16).digest()


def _key(key: object) -> str:
    """As JSON writes it."""
    return key if isinstance(key, str) else _written(key)


def difference(old: Outline, new: Outline, value: Json) -> list[Json] | None:
    """What leads from the value outlined by `old` to `value`, outlined by `new`; None if nothing.

    Holds parts of `value` as they are, not copied.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return _of_objects(old, new, {_key(key): inner for key, inner in value.items()})
    if old == new:
        return None
    if isinstance(old, list) and isinstance(new, list):
        keep = _common_prefix(old, new)
        return [_LIST, keep, list(value[keep:])]
    return [_REPLACE, value]


def _of_objects(
    old: dict[str, Outline], new: dict[str, Outline], value: Mapping[str, Json]
) -> list[Json] | None:
    changed: dict[str, Json] = {}
    for key, inner in value.items():
        step = difference(old[key], new[key], inner) if key in old else [_REPLACE, inner]
        if step is not None:
            changed[key] = step
    removed = [key for key in old if key not in new]
    return [_OBJECT, changed, removed] if changed or removed else None


def _common_prefix(old: Sequence[bytes], new: Sequence[bytes]) -> int:
    for index, (before, after) in enumerate(zip(old, new, strict=False)):
        if before != after:
            return index
    return min(len(old), len(new))


def apply(base: Json, step: Json) -> Json:
    """`base` after a difference, both read from JSON.

    Uses both up: the result is made of their parts, so that a difference costs what it holds and
    not what it changes. Raises UnfitDifference.
    """
    match step:
        case [0, value]:
            return value
        case [1, int(keep), list(items)] if isinstance(base, list) and 0 <= keep <= len(base):
            del base[keep:]
            base.extend(items)
            return base
        case [2, dict(changed), list(removed)] if isinstance(base, dict):
            for key in removed:
                if base.pop(key, step) is step:
                    raise UnfitDifference(f"there is no {key!r} to remove")
            for key, inner in changed.items():
                base[key] = apply(base.get(key), inner)
            return base
    raise UnfitDifference(f"{json.dumps(step)[:80]} does not fit a {type(base).__name__}")
