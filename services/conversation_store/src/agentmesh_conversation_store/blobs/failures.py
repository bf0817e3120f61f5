"""What went wrong at the place where blobs lie, as a typed no."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError

from agentmesh_conversation_store.domain.rejections import Reason, Rejection

logger = logging.getLogger(__name__)

_FULL = (
    "os error 28",  # ENOSPC
    "os error 27",  # EFBIG
    "os error 122",  # EDQUOT
    "507 Insufficient Storage",
    "StorageFull",
    "QuotaExceeded",
)
_FULL_ERRNOS = frozenset({27, 28, 122})


@contextmanager
def rejections() -> Iterator[None]:
    """Turns failures of the backend into rejections. Where it is and what it said is for the
    operator's log, not for callers."""
    try:
        yield
    except BaseError as error:
        raise _rejection(str(error)) from error
    except OSError as error:
        text = f"os error {error.errno}" if error.errno in _FULL_ERRNOS else str(error)
        raise _rejection(text) from error


def _rejection(text: str) -> Rejection:
    if any(sign in text for sign in _FULL):
        return Rejection(Reason.STORAGE_FULL, "there is no room for blobs left")
    logger.warning("the blob storage failed: %s", text.partition("\n")[0][:500])
    return Rejection(
        Reason.SERVICE_UNAVAILABLE, "the blob storage is not available", service="blob storage"
    )
