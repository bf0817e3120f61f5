"""Identifiers: a prefix that says what it names, and 128 bits that sort by time."""

from __future__ import annotations

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no i, l, o, u
_RANDOM_BITS = 80
_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """A new identifier such as "conv_01jd8v7xk3m5t2q9r4w6y8z0ab".

    48 bits of milliseconds since 1970, then 80 random bits, as 26 characters of lower-case
    Crockford base 32. Identifiers made by one process sort in the order they were made in.
    """
    global _last
    fresh = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    with _lock:
        same_millisecond = fresh >> _RANDOM_BITS <= _last >> _RANDOM_BITS
        _last = value = _last + 1 if same_millisecond else fresh
    return f"{prefix}_{_encode(value)}"


def _encode(value: int) -> str:
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
