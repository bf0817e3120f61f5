"""Manifests: what files there are, and where their contents lie."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Final

_MAGIC: Final = b"AMWS\x01"
_LENGTH: Final = struct.Struct(">I")
HEADER_BYTES: Final = len(_MAGIC) + _LENGTH.size
LARGEST: Final = 64 * 1024 * 1024
"""Bytes of a manifest, packed."""


class BrokenManifestError(ValueError):
    """The bytes are no manifest of this version."""


@dataclass(frozen=True)
class Record:
    """A file, folder or link. `kind` is directory, file, link or hard.

    A file's content is `size` bytes from `offset` on in `blob`, and has the hash `sha256`; `target`
    is where links lead.
    """

    path: str
    kind: str
    mode: int
    modified_ns: int
    size: int = 0
    sha256: str = ""
    blob: str = ""
    offset: int = 0
    target: str = ""

    def same_as(self, other: Record | None) -> bool:
        """True if they differ in nothing but their times and places."""
        return other is not None and (self.kind, self.mode, self.sha256, self.target) == (
            other.kind,
            other.mode,
            other.sha256,
            other.target,
        )


@dataclass(frozen=True)
class Manifest:
    """Everything there is, parents first. `digest` is that of its own blob, empty for no files;
    `sizes` are those of the blobs that contents lie in, its own included."""

    digest: str = ""
    records: Mapping[str, Record] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def blobs(self) -> tuple[tuple[str, int], ...]:
        """(digest, size) of all that it needs."""
        return tuple(sorted(self.sizes.items()))


NO_FILES: Final = Manifest()


@dataclass(frozen=True)
class State:
    """The files of a conversation at one time, as the store names them."""

    generation: int = 0
    digest: str = ""


NO_STATE: Final = State()


@dataclass(frozen=True)
class Change:
    """What becomes of the files that were of generation `base`."""

    base: int
    manifest: Manifest


class MovedError(Exception):
    """The files are not what a change was made of; `state` is what they are."""

    def __init__(self, state: State) -> None:
        super().__init__(f"the workspace is of generation {state.generation} by now")
        self.state = state


def encode(conversation: str, records: Mapping[str, Record], sizes: Mapping[str, int]) -> bytes:
    """The beginning of a manifest's blob; contents of its own follow.

    Records without a blob lie there, at their offsets from its end. `sizes` are those of the other
    blobs.
    """
    named = {record.blob for record in records.values()}
    body = {
        # So that no two conversations have the same manifest: each frees its own.
        "conversation": conversation,
        "sizes": {digest: size for digest, size in sorted(sizes.items()) if digest in named},
        "records": [astuple(record) for record in records.values()],
    }
    # Names that are no UTF-8 have lone surrogates, which JSON writes as escapes.
    packed = zlib.compress(json.dumps(body, separators=(",", ":")).encode(), 1)
    return _MAGIC + _LENGTH.pack(len(packed)) + packed


def packed_length(header: bytes) -> int:
    """How many bytes follow the header until the manifest ends. Raises BrokenManifestError."""
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        raise BrokenManifestError("this is no manifest")
    (length,) = _LENGTH.unpack(header[len(_MAGIC) : HEADER_BYTES])
    if length > LARGEST:
        raise BrokenManifestError(f"a manifest of {length} bytes")
    return int(length)


def decode(digest: str, packed: bytes) -> Manifest:
    """The manifest whose blob has that digest. Raises BrokenManifestError."""
    own = HEADER_BYTES + len(packed)
    try:
        body = json.loads(zlib.decompress(packed))
        records = [Record(*fields) for fields in body["records"]]
        return finished(digest, {record.path: record for record in records}, body["sizes"], own)
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise BrokenManifestError(f"manifest {digest}: {error}") from error


def finished(
    digest: str, records: Mapping[str, Record], sizes: Mapping[str, int], own: int
) -> Manifest:
    """A manifest with the name of its blob, where contents of its own begin at byte `own`."""
    placed = {
        path: replace(record, blob=digest, offset=own + record.offset)
        if record.kind == "file" and not record.blob
        else record
        for path, record in records.items()
    }
    end = max(
        (r.offset + r.size for r in placed.values() if r.blob == digest and r.kind == "file"),
        default=own,
    )
    named = {record.blob for record in placed.values()}
    kept = {blob: size for blob, size in sizes.items() if blob in named}
    return Manifest(digest, placed, {**kept, digest: end})


def rebased(manifest: Manifest, before: Manifest, after: Manifest) -> dict[str, Record]:
    """The records of `manifest` with what changed between the other two."""
    records = dict(manifest.records)
    for path in before.records.keys() - after.records.keys():
        records.pop(path, None)
    for path, record in after.records.items():
        if not record.same_as(before.records.get(path)):
            records[path] = record
            _add_parents(records, path, after)
    for path, record in list(records.items()):
        if record.kind == "hard" and record.target not in records:
            records[path] = replace(after.records[record.target], path=path)
    return {path: records[path] for path in sorted(records, key=lambda path: path.split("/"))}


def _add_parents(records: dict[str, Record], path: str, of: Manifest) -> None:
    while "/" in path:
        path = path.rpartition("/")[0]
        if path not in records and path in of.records:
            records[path] = of.records[path]
