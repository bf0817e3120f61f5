"""What it looks like when Redis is out of reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

REDIS_FAILURES = (RedisError, OSError)
_CLOSED = "the handler is closed"


@contextmanager
def lost_connections() -> Iterator[None]:
    """What is sent over a connection that was lost a moment before, uvloop refuses with an error
    of its own, that has no type and that the driver does not know. Here it is one of them."""
    try:
        yield
    except RuntimeError as error:
        if _CLOSED not in str(error):
            raise
        raise RedisConnectionError(str(error)) from error
