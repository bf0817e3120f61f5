"""Opaque tokens: where a page or a subscription goes on."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

from meshkit.errors import MeshError

_VERSION = 1
_BINDING_BYTES = 8


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(token: str, field: str) -> bytes:
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MeshError.invalid(field, "is not a token of this service") from None


def binding(tenant: str, conversation_id: str) -> bytes:
    """What ties a resume token to its conversation."""
    return hashlib.blake2b(
        f"{tenant}\0{conversation_id}".encode(), digest_size=_BINDING_BYTES
    ).digest()


def resume_token(bound: bytes, sequence: int) -> str:
    """Everything up to `sequence` was delivered."""
    return _encode(bytes([_VERSION]) + bound + sequence.to_bytes(8, "big"))


def resumed_sequence(token: str, bound: bytes) -> int:
    """The sequence in a resume token. INVALID_ARGUMENT for a token of something else."""
    raw = _decode(token, "resume_token")
    if len(raw) != 1 + _BINDING_BYTES + 8 or raw[0] != _VERSION:
        raise MeshError.invalid("resume_token", "is not a token of this service")
    if raw[1 : 1 + _BINDING_BYTES] != bound:
        raise MeshError.invalid("resume_token", "belongs to another conversation")
    return int.from_bytes(raw[1 + _BINDING_BYTES :], "big")


def page_token(kind: str, *position: str | int) -> str:
    """Where the next page begins. `kind` names the list, so that tokens cannot be mixed up."""
    return _encode(json.dumps([_VERSION, kind, *position], separators=(",", ":")).encode())


def page_position(token: str, kind: str, *shape: type) -> tuple[Any, ...]:
    """The position in a page token, with values of these types."""
    refusal = MeshError.invalid("page_token", "is not a token of this list")
    try:
        values = json.loads(_decode(token, "page_token"))
    except ValueError:
        raise refusal from None
    if not isinstance(values, list) or values[:2] != [_VERSION, kind]:
        raise refusal
    position = tuple(values[2:])
    if len(position) != len(shape) or not all(map(isinstance, position, shape)):
        raise refusal
    return position
