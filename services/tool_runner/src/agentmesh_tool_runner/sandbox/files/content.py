"""What files and folders consist of, for telling whether two are the same."""

from __future__ import annotations

import hashlib
import os
from typing import Final

from agentmesh_tool_runner.sandbox import beneath
from agentmesh_tool_runner.sandbox.snapshot import Entry, walk

_BLOCK: Final = 256 * 1024


def sha256_of(descriptor: int, size: int) -> bytes:
    """Of so many bytes of an open file: a program may go on writing."""
    found, offset = hashlib.sha256(), 0
    while offset < size and (block := os.pread(descriptor, min(_BLOCK, size - offset), offset)):
        found.update(block)
        offset += len(block)
    return found.digest()


def sha256_at(root: int, entry: Entry) -> bytes:
    """Of a file; empty for all else."""
    if entry.kind != "file":
        return b""
    descriptor = beneath.open_regular(root, entry.path, os.O_RDONLY)
    try:
        return sha256_of(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def is_same(root: int, one: Entry, other: Entry) -> bool:
    """Whether two files have the same bytes, or two folders the same things below them. Modes and
    times do not count, nor what is neither file, folder nor link."""
    if one.kind != other.kind or (one.kind == "file" and one.size != other.size):
        return False
    return _content(root, one) == _content(root, other)


def _content(root: int, entry: Entry) -> list[tuple[str, str, str, bytes]]:
    found = [entry, *walk(root, entry.path)] if entry.kind == "directory" else [entry]
    return [
        (each.path[len(entry.path) :], each.kind, each.target, sha256_at(root, each))
        for each in found
        if each.kind != "other"
    ]
