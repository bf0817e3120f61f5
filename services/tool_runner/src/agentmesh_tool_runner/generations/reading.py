"""Manifests and contents, from the store."""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Final

from .manifest import (
    HEADER_BYTES,
    NO_FILES,
    BrokenManifestError,
    Manifest,
    Record,
    decode,
    packed_length,
)
from .shelf import Shelf

PIECE: Final = 1024 * 1024
"""Bytes of a file that are held at once."""
_MANIFESTS_KEPT: Final = 64


class Library:
    """Manifests that were read lately: they never change."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Manifest] = OrderedDict()

    def add(self, manifest: Manifest) -> None:
        """Remembers one."""
        self._known[manifest.digest] = manifest
        self._known.move_to_end(manifest.digest)
        while len(self._known) > _MANIFESTS_KEPT:
            self._known.popitem(last=False)

    async def manifest(self, shelf: Shelf, digest: str) -> Manifest:
        """The manifest of that digest. Raises BrokenManifestError."""
        if not digest:
            return NO_FILES
        known = self._known.get(digest)
        if known is None:
            known = await _read_manifest(shelf, digest)
        self.add(known)
        return known


async def _read_manifest(shelf: Shelf, digest: str) -> Manifest:
    data = bytearray()
    wanted = HEADER_BYTES
    async with contextlib.aclosing(_closable(shelf.read(digest))) as chunks:
        async for chunk in chunks:
            data += chunk
            if wanted == HEADER_BYTES and len(data) >= HEADER_BYTES:
                wanted += packed_length(bytes(data[:HEADER_BYTES]))
            if len(data) >= wanted > HEADER_BYTES:
                break
    if len(data) < wanted or wanted == HEADER_BYTES:
        raise BrokenManifestError(f"manifest {digest} is cut short")
    return decode(digest, bytes(data[HEADER_BYTES:wanted]))


async def contents(
    shelf: Shelf, records: Iterable[Record]
) -> AsyncIterator[tuple[Record, int, bytes, bool]]:
    """The contents of files as (record, offset, piece, whether it is the last), blob by blob in the
    order in which they lie there. Raises BrokenManifestError for what has another hash."""
    by_blob: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_blob[record.blob].append(record)
    for blob, wanted in by_blob.items():
        wanted.sort(key=lambda record: record.offset)
        async with contextlib.aclosing(_Slices(shelf, blob, wanted[0].offset)) as slices:
            for record in wanted:
                hasher = hashlib.sha256()
                await slices.skip_to(record.offset)
                done = 0
                while True:
                    piece = await slices.take(min(PIECE, record.size - done))
                    hasher.update(piece)
                    last = done + len(piece) >= record.size
                    if last and hasher.hexdigest() != record.sha256:
                        raise BrokenManifestError(f"{record.path} is not what was kept")
                    yield record, done, piece, last
                    done += len(piece)
                    if last:
                        break


class _Slices:
    """Reads a blob forward. The same bytes may be taken once only, but files may share them."""

    def __init__(self, shelf: Shelf, blob: str, offset: int) -> None:
        self._shelf = shelf
        self._blob = blob
        self._position = offset
        self._rest = b""
        self._chunks = _closable(shelf.read(blob, offset))

    async def aclose(self) -> None:
        await self._chunks.aclose()

    async def skip_to(self, offset: int) -> None:
        if offset < self._position:
            # Two files of the same content lie at the same place.
            await self._chunks.aclose()
            self._position, self._rest = offset, b""
            self._chunks = _closable(self._shelf.read(self._blob, offset))
        while self._position < offset:
            await self.take(min(PIECE, offset - self._position))

    async def take(self, size: int) -> bytes:
        parts = []
        left = size
        while left:
            if not self._rest:
                self._rest = await anext(self._chunks, b"")
                if not self._rest:
                    raise BrokenManifestError(f"blob {self._blob} is cut short")
            parts.append(self._rest[:left])
            self._rest = self._rest[len(parts[-1]) :]
            left -= len(parts[-1])
        self._position += size
        return b"".join(parts)


async def _closable(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
