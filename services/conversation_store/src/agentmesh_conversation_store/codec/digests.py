"""Digests that tell whether two requests say the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from google.protobuf.message import Message

_SHORT = 24


def digest_of(message: Message) -> bytes:
    """SHA-256 over a message's deterministic form, which knows no order of map entries."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def short_digest(*parts: bytes | str | int) -> str:
    """A short digest over values, each with its length."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return hasher.hexdigest()[:_SHORT]


def short_digest_of(messages: Iterable[Message]) -> str:
    """A short digest over messages in their order."""
    return short_digest(*(m.SerializeToString(deterministic=True) for m in messages))
