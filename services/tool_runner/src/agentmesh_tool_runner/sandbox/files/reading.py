"""Looking at files: one, a page of many, or what a search finds. Nothing here changes anything."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agentmesh_tool_runner.sandbox import beneath
from agentmesh_tool_runner.sandbox.model import FileEntry
from agentmesh_tool_runner.sandbox.snapshot import Entry, walk

from .content import sha256_of
from .tree import HIDDEN, as_entry, as_file_entry, inside, look
from .tree import etag as etag_of

_LOOKED_AT: Final = 64 * 1024
_MAX_LINE: Final = 64 * 1024
_BLOCK: Final = 256 * 1024
_MAX_SEARCHED_BYTES: Final = 256 * 1024 * 1024
_SHOWN_OF_A_LINE: Final = 300


def read_file(root: int, path: str, offset: int, limit: int, etag: str = "") -> bytes:
    """At most `limit` bytes from `offset`; none at the end.

    Raises FileNotFoundError, IsADirectoryError; OSError with ESTALE if `etag` is not the file's, so
    that nobody reads one file's beginning and another one's end.
    """
    with _open(root, path) as (descriptor, entry):
        if etag and etag_of(entry) != etag:
            raise OSError(errno.ESTALE, "it was changed while it was read", path)
        return os.pread(descriptor, limit, offset)


@contextlib.contextmanager
def _open(root: int, path: str) -> Iterator[tuple[int, Entry]]:
    plain = inside(path)
    descriptor = beneath.open_beneath(root, plain, os.O_RDONLY)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(found.st_mode):
            raise beneath.UnsafePathError(f"{path!r} is not a regular file")
        yield descriptor, as_entry(found, plain)
    finally:
        os.close(descriptor)


def stat_file(root: int, path: str, *, with_hash: bool = False) -> FileEntry:
    """What is there. A link is shown as such, not followed. Raises FileNotFoundError."""
    plain = inside(path)
    if plain == ".":
        return as_file_entry(as_entry(os.fstat(root), "."))
    entry = look(root, plain)
    if not with_hash or entry.kind != "file":
        return as_file_entry(entry)
    with _open(root, path) as (descriptor, opened):
        return as_file_entry(opened, sha256_of(descriptor, opened.size))


def list_files(
    root: int,
    path: str = ".",
    limit: int = 1000,
    *,
    after: str = "",
    recursive: bool = True,
    all_kinds: bool = True,
    glob: str = "",
) -> list[FileEntry]:
    """Entries below `path`, parents first, names sorted; from behind the path `after` on.

    `glob` is matched with the name, or with the whole path if it has a slash. Raises
    FileNotFoundError, NotADirectoryError.
    """
    entries: list[FileEntry] = []
    behind = _place(inside(after)) if after else ()
    matches = _Matcher(glob)
    for entry in walk(root, inside(path), recursive=recursive, leave_out=HIDDEN):
        if len(entries) == limit:
            break
        wanted = all_kinds or entry.kind == "file"
        if wanted and _place(entry.path) > behind and matches(entry.path):
            entries.append(as_file_entry(entry))
    return entries


def _place(plain: str) -> tuple[str, ...]:
    """Sorts as the walk goes: by folder, then by name."""
    return tuple(plain.split("/"))


class _Matcher:
    def __init__(self, glob: str) -> None:
        self._whole = "/" in glob
        self._pattern = re.compile(fnmatch.translate(glob)) if glob else None

    def __call__(self, plain: str) -> bool:
        if self._pattern is None:
            return True
        shown = beneath.shown(plain)
        name = shown if self._whole else shown.rpartition("/")[2]
        return self._pattern.match(name) is not None


@dataclass(frozen=True)
class Hit:
    """A line that holds the text. `line` counts from 1; `text` is its beginning."""

    path: str
    line: int
    text: str


@dataclass(frozen=True)
class SearchResult:
    """What was found, in the order of a listing; not `complete` if a bound ended the search."""

    hits: list[Hit]
    complete: bool


def search_files(
    root: int,
    text: str,
    path: str = ".",
    *,
    glob: str = "",
    ignore_case: bool = False,
    limit: int = 200,
) -> SearchResult:
    """Lines that hold `text`, in files whose name matches `glob`; binary files are passed over.

    The text is taken as it is, not as a pattern. At most 256 MiB are read, holes included.
    """
    hits: list[Hit] = []
    left, complete = _MAX_SEARCHED_BYTES, True
    matches = _Matcher(glob)
    wanted = (text.lower() if ignore_case else text).encode(errors="surrogateescape")
    for entry in walk(root, inside(path), leave_out=HIDDEN):
        if entry.kind != "file" or not matches(entry.path):
            continue
        if left < entry.size:
            complete = False
            continue
        left -= entry.size
        for number, line in _lines(root, entry):
            if wanted in (line.decode(errors="replace").lower().encode() if ignore_case else line):
                if len(hits) == limit:
                    return SearchResult(hits, complete=False)
                shown = line.decode(errors="replace").strip()[:_SHOWN_OF_A_LINE]
                hits.append(Hit(beneath.shown(entry.path), number, shown))
    return SearchResult(hits, complete)


def _lines(root: int, entry: Entry) -> Iterator[tuple[int, bytes]]:
    """Lines of a text file; long ones in pieces. What vanished or was replaced gives none."""
    try:
        descriptor = beneath.open_regular(root, entry.path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError, beneath.UnsafePathError):
        return
    with os.fdopen(descriptor, "rb") as file:
        if b"\0" in file.peek(_LOOKED_AT):
            return
        number, ended, left = 0, True, entry.size
        while left > 0 and (line := file.readline(_MAX_LINE)):
            left -= len(line)
            number += ended
            ended = line.endswith(b"\n")
            yield number, line
