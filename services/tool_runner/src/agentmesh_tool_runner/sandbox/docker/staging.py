"""Archives of a workspace on their way in and out, laid in the keeper's own /tmp meanwhile.

Operations in the sense of `reach`: done beside the files. Standard library only.
"""

from __future__ import annotations

from pathlib import Path

from agentmesh_tool_runner.sandbox import snapshot

_ARCHIVE = Path("/tmp/archive.tar")  # noqa: S108 - inside


def append(_root: int, data: bytes) -> None:
    """One more piece of the archive that comes in."""
    with _ARCHIVE.open("ab") as file:
        file.write(data)


def restore(root: int) -> list[snapshot.Entry]:
    """Lays the files of the archive that came in, if one did."""
    try:
        return snapshot.restore(root, _ARCHIVE, uid=None)
    finally:
        drop(root)


def save(
    root: int, max_bytes: int, before: list[snapshot.Entry] | None
) -> tuple[list[snapshot.Entry], int]:
    """Makes the archive; its entries, and its size: 0 where nothing has changed."""
    drop(root)
    entries = snapshot.save(root, _ARCHIVE, max_bytes=max_bytes, before=before)
    return entries, _ARCHIVE.stat().st_size if _ARCHIVE.exists() else 0


def read(_root: int, offset: int, limit: int) -> bytes:
    """A piece of the archive that was made."""
    with _ARCHIVE.open("rb") as file:
        file.seek(offset)
        return file.read(limit)


def drop(_root: int) -> None:
    """Removes the archive."""
    _ARCHIVE.unlink(missing_ok=True)
