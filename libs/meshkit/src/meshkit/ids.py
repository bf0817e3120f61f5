"""Identifiers: a prefix that says what it names, and 128 bits that sort by time."""

from __future__ import annotations

import os
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no i, l, o, u
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_RANDOM_BYTES = 10
_RANDOM_BITS = _RANDOM_BYTES * 8
_POOL_BYTES = 400 * _RANDOM_BYTES
_lock = threading.Lock()
_last = 0
_pool = b""
_used = 0


def new_id(prefix: str) -> str:
    """A new identifier such as "conv_01jd8v7xk3m5t2q9r4w6y8z0ab".

    48 bits of milliseconds since 1970, then 80 random bits, as 26 characters of lower-case
    Crockford base 32. Identifiers made by one process sort in the order they were made in.
    """
    global _last
    with _lock:
        fresh = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | _random()
        same_millisecond = fresh >> _RANDOM_BITS <= _last >> _RANDOM_BITS
        _last = value = _last + 1 if same_millisecond else fresh
    return f"{prefix}_{_encode(value)}"


def _random() -> int:
    """Random bits of the system's, fetched for some hundred identifiers at a time."""
    global _pool, _used
    if _used >= len(_pool):
        _pool, _used = os.urandom(_POOL_BYTES), 0
    _used += _RANDOM_BYTES
    return int.from_bytes(_pool[_used - _RANDOM_BYTES : _used])


def _forget() -> None:
    """A child process must not go on with its parent's random bits, nor after its last id."""
    global _pool, _lock, _last
    _pool, _lock, _last = b"", threading.Lock(), 0


os.register_at_fork(after_in_child=_forget)


def _encode(value: int) -> str:
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)])
