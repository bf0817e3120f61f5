"""Proof that a message on Redis comes from a replica of this mesh, and was meant for its channel.

Whoever can reach the same Redis could otherwise put words into any tenant's conversations. Nothing
is kept secret by it, and an old message may be heard again: notices are hints, and twice heard is
harmless.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from hashlib import blake2b

TAG_BYTES = 16


class Seal:
    """Tags messages under keys of up to 64 bytes: the first one seals, each of them opens."""

    def __init__(self, keys: Callable[[], Sequence[bytes]]) -> None:
        self._keys = keys

    def sealed(self, channel: str, message: bytes) -> bytes:
        """The message with its tag before it."""
        return _tag(self._keys()[0], channel, message) + message

    def opened(self, channel: str, data: bytes) -> bytes | None:
        """The message, or None if it was sealed under no key for this channel."""
        message = data[TAG_BYTES:]
        for key in self._keys():
            if hmac.compare_digest(_tag(key, channel, message), data[:TAG_BYTES]):
                return message
        return None


def _tag(key: bytes, channel: str, message: bytes) -> bytes:
    name = channel.encode()
    tag = blake2b(len(name).to_bytes(4, "big"), digest_size=TAG_BYTES, key=key)
    tag.update(name)
    tag.update(message)
    return tag.digest()
