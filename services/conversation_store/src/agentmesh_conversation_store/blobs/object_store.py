"""Blobs in a folder, or in S3, Google Cloud Storage or Azure."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import obstore
from obstore.exceptions import BaseError

from agentmesh_conversation_store.domain.rejections import Reason, Rejection, not_found

from .failures import rejections
from .interface import MAX_CHUNK, Blob
from .keys import STAGING, blob_key, parse_key, staging_key
from .location import Place

PART = 8 * 1024 * 1024
"""Bytes of one request: what an upload or a download holds in memory, a few times over."""
_PARTS_AT_ONCE = 2

STALE_FILE = timedelta(hours=1)
"""Since its last byte: an upload into a folder that is older belongs to no process."""
STALE_OBJECT = timedelta(hours=24)
"""Since it was begun, which is all that object stores tell."""


class ObjectStoreBlobs:
    """See Blobs.

    Whatever is larger than a part goes to a staging key while it is hashed; under its digest it
    appears whole, by a move. An upload that breaks is ended and removed, so that no parts of it
    are kept and paid for.
    """

    def __init__(self, place: Place) -> None:
        self._store = place.store
        self._folder = place.folder
        self._leftovers: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def put(self, tenant: str, chunks: AsyncIterator[bytes]) -> Blob:
        """See Blobs."""
        hasher = hashlib.sha256()
        start = bytearray()
        async for chunk in chunks:
            hasher.update(chunk)
            start += chunk
            if len(start) > PART:
                break
        if len(start) <= PART and self._folder is None:
            digest, size = hasher.hexdigest(), len(start)
            key = blob_key(tenant, digest)
            async with self._alone_with(key):
                with rejections():
                    await obstore.put_async(self._store, key, start)
        else:
            staged = staging_key()
            size = await self._stage(staged, start, chunks, hasher)
            digest = hasher.hexdigest()
            key = blob_key(tenant, digest)
            async with self._alone_with(key):
                await self._publish(staged, key)
        return Blob(tenant, digest, size, datetime.now(UTC))

    async def find(self, tenant: str, digest: str) -> Blob:
        """See Blobs."""
        try:
            with rejections():
                found = await self._head(blob_key(tenant, digest))
        except ValueError:
            found = None
        if found is None:
            raise not_found("blob", digest)
        return Blob(tenant, digest, found["size"], found["last_modified"])

    async def read(self, blob: Blob, offset: int = 0) -> AsyncIterator[bytes]:
        """See Blobs."""
        key = blob_key(blob.tenant, blob.digest)
        hasher = hashlib.sha256() if offset == 0 else None
        position = offset
        while position < blob.size:
            data = await self._range(key, blob, position, min(PART, blob.size - position))
            position += len(data)
            if hasher is not None:
                hasher.update(data)
                if position >= blob.size and hasher.hexdigest() != blob.digest:
                    raise _corrupt(blob)
            view = memoryview(data)
            for at in range(0, len(data), MAX_CHUNK):
                yield bytes(view[at : at + MAX_CHUNK])

    async def renew(self, blob: Blob) -> None:
        """See Blobs."""
        key = blob_key(blob.tenant, blob.digest)
        try:
            async with self._alone_with(key):
                await self._renew(key)
        except FileNotFoundError:
            raise not_found("blob", blob.digest) from None
        except (BaseError, OSError):
            with rejections():
                raise

    async def _renew(self, key: str) -> None:
        if self._folder is not None:
            await asyncio.to_thread(os.utime, self._folder / key)
        else:  # object stores refuse to copy an object onto itself
            staged = staging_key()
            await obstore.copy_async(self._store, key, staged)
            await self._publish(staged, key)

    async def remove(self, tenant: str, digest: str, older_than: timedelta = timedelta(0)) -> bool:
        """See Blobs."""
        key = blob_key(tenant, digest)
        async with self._alone_with(key):
            with rejections():
                found = await self._head(key)
            if found is None or datetime.now(UTC) - found["last_modified"] < older_than:
                return False
            await self._delete(key)
            return True

    def _alone_with(self, key: str) -> asyncio.Lock:
        """Kept as long as somebody holds it or waits for it."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    async def everything(self) -> AsyncIterator[Blob]:
        """See Blobs."""
        pages = obstore.list(self._store, chunk_size=1000)
        while page := await _next(pages):
            for found in page:
                known = parse_key(found["path"])
                if known is not None:
                    yield Blob(*known, found["size"], found["last_modified"])

    async def sweep(self) -> int:
        """See Blobs."""
        if self._folder is not None:
            with rejections():
                return await asyncio.to_thread(_sweep_folder, self._folder / STAGING)
        swept = 0
        pages = obstore.list(self._store, STAGING, chunk_size=1000)
        while page := await _next(pages):
            for found in page:
                if datetime.now(UTC) - found["last_modified"] > STALE_OBJECT:
                    await self._delete(found["path"])
                    swept += 1
        return swept

    async def _stage(
        self, key: str, start: bytearray, chunks: AsyncIterator[bytes], hasher: Any
    ) -> int:
        """Writes what came and what comes to `key`; says how many bytes it were."""
        size = len(start)
        writer = obstore.open_writer_async(
            self._store, key, buffer_size=PART, max_concurrency=_PARTS_AT_ONCE
        )
        try:
            with rejections():
                await writer.write(bytes(start))
            start.clear()
            async for chunk in chunks:
                hasher.update(chunk)
                size += len(chunk)
                with rejections():
                    await writer.write(chunk)
            with rejections():
                await writer.close()
        except BaseException:
            await self._discard(writer, key)
            raise
        return size

    async def _discard(self, writer: Any, key: str) -> None:
        """Goes on if the caller is cancelled: its parts would stay otherwise."""

        async def discard() -> None:
            with suppress(BaseError, OSError):
                await writer.close()
            with suppress(Rejection):
                await self._delete(key)

        task = asyncio.create_task(discard())
        self._leftovers.add(task)
        task.add_done_callback(self._leftovers.discard)
        await asyncio.shield(task)

    async def _publish(self, staged: str, key: str) -> None:
        """Moves an upload to where it is found. A folder's is on the disk before that."""
        if self._folder is not None:
            with rejections():
                await asyncio.to_thread(_move, self._folder / staged, self._folder / key)
            return
        try:
            with rejections():
                await obstore.copy_async(self._store, staged, key)
        finally:
            with suppress(Rejection):
                await self._delete(staged)

    async def _head(self, key: str) -> Any:
        try:
            return await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return None

    async def _range(self, key: str, blob: Blob, position: int, length: int) -> Any:
        try:
            data = await obstore.get_range_async(self._store, key, start=position, length=length)
        except FileNotFoundError:
            raise not_found("blob", blob.digest) from None
        except (BaseError, OSError):
            with rejections():
                raise
        if len(data) != length:
            raise _corrupt(blob)
        return data

    async def _delete(self, key: str) -> None:
        with rejections(), suppress(FileNotFoundError):
            await obstore.delete_async(self._store, key)


def _corrupt(blob: Blob) -> Rejection:
    return Rejection(
        Reason.CORRUPT,
        f"the bytes of blob {blob.digest} are not those that were uploaded",
        digest=blob.digest,
    )


async def _next(pages: Any) -> Any:
    with rejections():
        return await anext(pages, None)


def _move(staged: Path, target: Path) -> None:
    with staged.open("rb+") as file:
        os.fsync(file.fileno())
    made = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staged.replace(target)
    for folder in (target.parent, *(p.parent for p in made)):
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep_folder(staging: Path) -> int:
    if not staging.is_dir():
        return 0
    oldest = datetime.now(UTC) - STALE_FILE
    swept = 0
    for path in staging.iterdir():
        with suppress(FileNotFoundError):
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < oldest:
                path.unlink()
                swept += 1
    return swept
