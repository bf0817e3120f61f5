"""Sorting a folder's files into folders: by what they are, by their date, or by their size."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agentmesh_tool_runner.sandbox import beneath
from agentmesh_tool_runner.sandbox.model import FileRules
from agentmesh_tool_runner.sandbox.snapshot import Entry, walk

from .tree import HIDDEN, inside, look
from .writing import move

_KINDS: Final = {
    "archives": "zip tar gz tgz bz2 xz 7z zst whl jar",
    "audio": "mp3 wav flac ogg m4a",
    "code": "py pyi ipynb js mjs ts tsx jsx java c h cc cpp hpp go rs sh sql rb php cs kt swift",
    "data": "json jsonl csv tsv xml yaml yml toml ini parquet sqlite db npy pkl",
    "documents": "txt md rst pdf doc docx odt rtf tex html htm xls xlsx ods ppt pptx log",
    "images": "png jpg jpeg gif svg webp bmp tif tiff ico",
    "videos": "mp4 mkv mov avi webm",
}
_FOLDERS: Final = {end: kind for kind, ends in _KINDS.items() for end in ends.split()}
_MIB: Final = 1024 * 1024


class OrganiseBy(StrEnum):
    """What decides the folder that a file goes into."""

    KIND = "kind"
    """archives, audio, code, data, documents, images, videos or other."""
    EXTENSION = "extension"
    DATE = "date"
    """Year and month of the last change, in UTC: 2026/11."""
    SIZE = "size"
    """small (below 1 MiB), medium (below 16 MiB) or large."""


@dataclass(frozen=True)
class Move:
    """A file's way."""

    path: str
    destination: str


def organise(
    root: int, rules: FileRules, path: str, by: OrganiseBy, *, dry_run: bool = False
) -> list[Move]:
    """Moves the files that lie directly in `path` into folders there; says what went where.

    Nothing is overwritten: a name that is taken gets a number. Links and hidden files stay.
    """
    plain = inside(path)
    moves: list[Move] = []
    taken: set[str] = set()
    for entry in list(walk(root, plain, recursive=False, leave_out=HIDDEN)):
        name = entry.path.rpartition("/")[2]
        if entry.kind != "file" or name.startswith("."):
            continue
        folder = _folder(name, entry, by)
        base = folder if plain == "." else f"{plain}/{folder}"
        target = _free(root, base, name, taken)
        taken.add(target)
        moves.append(Move(beneath.shown(entry.path), beneath.shown(target)))
    if not dry_run:
        for each in moves:
            move(root, rules, each.path, each.destination)
    return moves


def _folder(name: str, entry: Entry, by: OrganiseBy) -> str:
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    match by:
        case OrganiseBy.KIND:
            return _FOLDERS.get(extension, "other")
        case OrganiseBy.EXTENSION:
            return extension or "none"
        case OrganiseBy.DATE:
            day = datetime.datetime.fromtimestamp(entry.modified_ns / 1e9, tz=datetime.UTC)
            return f"{day:%Y/%m}"
        case OrganiseBy.SIZE:
            ends = {"small": _MIB, "medium": 16 * _MIB}
            return next((size for size, end in ends.items() if entry.size < end), "large")


def _free(root: int, base: str, name: str, taken: set[str]) -> str:
    """The first of name, name (2), name (3), … that nothing has yet."""
    stem, dot, extension = name.rpartition(".")
    for number in itertools.count(1):
        numbered = name
        if number > 1:
            numbered = f"{stem} ({number}){dot}{extension}" if stem else f"{name} ({number})"
        target = f"{base}/{numbered}"
        if target not in taken and not _exists(root, target):
            return target
    raise AssertionError("itertools.count ends")


def _exists(root: int, plain: str) -> bool:
    try:
        look(root, plain)
    except FileNotFoundError:
        return False
    return True
