"""Makes an open workspace what a manifest says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from agentmesh_tool_runner.sandbox import trees
from agentmesh_tool_runner.sandbox.mounted import Mounted
from agentmesh_tool_runner.sandbox.snapshot import Entry
from agentmesh_tool_runner.sandbox.trees import Item

from .manifest import Manifest, Record
from .reading import contents
from .shelf import Shelf

_BATCH_BYTES: Final = 4 * 1024 * 1024
_BATCH_ITEMS: Final = 500


async def lay(
    mounted: Mounted,
    shelf: Shelf,
    before: Manifest,
    seen: dict[str, Entry],
    after: Manifest,
    max_bytes: int,
) -> dict[str, Entry]:
    """Brings in what changed between two manifests, and says how the files look then.

    `seen` is how those of `before` looked. What was changed here since then stays as it is here,
    and is left out of the answer. Raises WorkspaceFullError, BrokenManifestError.
    """
    here = {e.path: e for e in await mounted.files.call(trees.look_at_all, max_bytes)}
    untouched = {path for path, entry in here.items() if _alike(entry, seen.get(path))}

    def free(path: str) -> bool:
        return path in untouched if path in here else path not in before.records

    gone = [p for p in before.records if p not in after.records and p in untouched]
    wanted = [
        record
        for path, record in after.records.items()
        if not record.same_as(before.records.get(path)) and free(path)
    ]
    laid = {record.path for record in wanted}
    # A file that is laid anew is another one: what leads to the old one has to lead to it.
    wanted += [
        record
        for path, record in after.records.items()
        if record.kind == "hard" and record.target in laid and path not in laid and free(path)
    ]
    if not gone and not wanted:
        return {path: here[path] for path in untouched}
    await mounted.files.call(trees.remove_all, gone)
    await _lay_all(mounted, shelf, wanted)
    return await _as_laid(mounted, wanted, here, untouched, max_bytes)


async def _as_laid(
    mounted: Mounted,
    wanted: Sequence[Record],
    before: dict[str, Entry],
    untouched: set[str],
    max_bytes: int,
) -> dict[str, Entry]:
    laid = {record.path for record in wanted}
    now = await mounted.files.call(trees.look_at_all, max_bytes)
    return {
        entry.path: entry
        for entry in now
        if entry.path in laid or (entry.path in untouched and _alike(entry, before.get(entry.path)))
    }


def _alike(entry: Entry, other: Entry | None) -> bool:
    """True if nothing of it changed; of a folder the times do with what is in it."""
    if other is None or entry.kind != "directory":
        return entry == other
    return (entry.kind, entry.mode) == (other.kind, other.mode)


async def _lay_all(mounted: Mounted, shelf: Shelf, records: Iterable[Record]) -> None:
    kinds: dict[str, list[Record]] = {"directory": [], "file": [], "link": [], "hard": []}
    for record in records:
        kinds[record.kind].append(record)
    folders = [_item(record) for record in kinds["directory"]]
    await mounted.files.call(trees.lay_all, mounted.uid, folders)
    batch: list[Item] = []
    size = 0
    async for record, offset, piece, last in contents(shelf, kinds["file"]):
        batch.append(
            Item(
                record.path,
                "file",
                record.mode,
                record.modified_ns,
                data=piece,
                offset=offset,
                whole=last,
            )
        )
        size += len(piece)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_ITEMS:
            await mounted.files.call(trees.lay_all, mounted.uid, batch)
            batch, size = [], 0
    batch += [_item(record) for record in (*kinds["link"], *kinds["hard"])]
    await mounted.files.call(trees.lay_all, mounted.uid, batch)
    await mounted.files.call(trees.finish_folders, folders)


def _item(record: Record) -> Item:
    return Item(record.path, record.kind, record.mode, record.modified_ns, target=record.target)
