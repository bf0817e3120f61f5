"""What descriptors say, alike for every version of protobuf."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether `field` is a list or a map."""
    # protobuf 7 has `is_repeated` and no `label`; protobuf 5 has `label` alone.
    either: Any = field
    known = getattr(either, "is_repeated", None)
    return bool(either.label == either.LABEL_REPEATED if known is None else known)
