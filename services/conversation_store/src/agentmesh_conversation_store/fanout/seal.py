"""Proof that a message on Redis comes from a replica of this mesh, and was meant for its channel.

Whoever can reach the same Redis could otherwise put words into any tenant's conversations. Nothing
is kept secret by it, and an old message may be heard again: notices are hints, and twice heard is
harmless.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b

TAG_BYTES = 16


class Seal:
    """Tags messages under a key of up to 64 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sealed(self, channel: str, message: bytes) -> bytes:
        """The message with its tag before it."""
        return self._tag(channel, message) + message

    def opened(self, channel: str, data: bytes) -> bytes | None:
        """The message, or None if it was not sealed under this key for this channel."""
        message = data[TAG_BYTES:]
        if hmac.compare_digest(self._tag(channel, message), data[:TAG_BYTES]):
            return message
        return None

    def _tag(self, channel: str, message: bytes) -> bytes:
        name = channel.encode()
        tag = blake2b(len(name).to_bytes(4, "big"), digest_size=TAG_BYTES, key=self._key)
        tag.update(name)
        tag.update(message)
        return tag.digest()
