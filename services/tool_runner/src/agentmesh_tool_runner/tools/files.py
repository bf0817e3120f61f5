"""file_manager: the files of the workspace, and never another."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator

from agentmesh_tool_runner.sandbox.files import organising, reading, versions, writing
from agentmesh_tool_runner.sandbox.files.organising import OrganiseBy
from agentmesh_tool_runner.sandbox.model import FileEntry

from .file_formats import Format, MalformedError, as_base64, describe, encode, printable
from .tool import Arguments, Result, Tool, ToolContext, ToolReply

_MAX_READ: Final = 256 * 1024
_MAX_WRITE: Final = 1024 * 1024
_MAX_CHANGED: Final = 16 * 1024 * 1024
_MAX_ENTRIES: Final = 500
_MAX_HITS: Final = 200
_MAX_PATH: Final = 3072
_NEEDED: Final = {
    "write": ("content",),
    "append": ("content",),
    "replace": ("pattern", "content"),
    "move": ("destination",),
    "copy": ("destination",),
    "search": ("pattern",),
    "organize": ("by",),
    "restore": ("version",),
}


class FileArguments(Arguments):
    """An action on a file or folder."""

    action: Literal[
        "list",
        "stat",
        "read",
        "write",
        "append",
        "replace",
        "delete",
        "move",
        "copy",
        "make_folder",
        "search",
        "organize",
        "versions",
        "restore",
    ]
    path: str = Field(default=".", max_length=_MAX_PATH, description="Relative to the workspace.")
    content: str | None = Field(
        default=None,
        max_length=_MAX_WRITE,
        description="write, append: what to write; replace: what the pattern becomes.",
    )
    destination: str | None = Field(default=None, max_length=_MAX_PATH)
    overwrite: bool = Field(
        default=False, description="move, copy: may replace a file, which is kept as a version."
    )
    pattern: str | None = Field(
        default=None,
        min_length=1,
        max_length=10_000,
        description="list: a glob such as *.py; search, replace: the text to find.",
    )
    format: Format = Field(
        default=Format.TEXT,
        description="read, write: how to take the file; base64 for binary files.",
    )
    offset: int = Field(default=0, ge=0, description="read: skip this many bytes.")
    by: OrganiseBy | None = Field(
        default=None, description="organize: what decides the folder of a file."
    )
    version: str | None = Field(
        default=None, max_length=64, description="restore: an id that versions showed."
    )

    @model_validator(mode="after")
    def _action_has_what_it_needs(self) -> FileArguments:
        for field in _NEEDED.get(self.action, ()):
            if getattr(self, field) is None:
                raise ValueError(f"{field}: {self.action} needs it")
        return self


class FileResult(Result):
    """Of what lists or searches: how many there were."""

    entries: int | None = None
    hits: int | None = None


class FileManager(Tool[FileArguments]):
    """Reads and changes files."""

    name = "file_manager"
    description = (
        "Lists, reads, writes, changes, moves, copies, deletes, searches and organizes files of "
        "the workspace. What is overwritten or deleted is kept as a version and can be restored."
    )
    safe_to_repeat = False
    arguments = FileArguments
    result = FileResult

    async def act(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        """Carries out the action."""
        action = getattr(self, f"_{arguments.action}")
        try:
            reply: ToolReply = await action(context, arguments)
        except MalformedError as error:
            reply = ToolReply.error(f"{printable(arguments.path)}: {error}")
        except FileExistsError as error:
            text = f"{printable(str(error.filename))} is there already"
            reply = ToolReply.error(f"{text}; overwrite may replace a file, never a folder")
        return reply

    async def _list(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        entries = await context.workspace.look(
            reading.list_files, arguments.path, _MAX_ENTRIES + 1, glob=arguments.pattern or ""
        )
        lines = [_line(entry) for entry in entries[:_MAX_ENTRIES]]
        if len(entries) > _MAX_ENTRIES:
            lines.append(f"… only the first {_MAX_ENTRIES} are shown")
        return ToolReply.ok("\n".join(lines) or "no files", entries=min(len(entries), _MAX_ENTRIES))

    async def _stat(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        entry = await context.workspace.look(reading.stat_file, arguments.path, with_hash=True)
        detail = {"kind": entry.kind, "size": entry.size, "modified_at": entry.modified_at}
        return ToolReply.ok(_line(entry), **detail, sha256=entry.sha256.hex())

    async def _read(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        path, form, offset = arguments.path, arguments.format, arguments.offset
        data = await context.workspace.look(reading.read_file, path, offset, _MAX_READ + 1)
        whole = len(data) <= _MAX_READ
        data = data[:_MAX_READ]
        if form is Format.BASE64:
            return ToolReply.ok(as_base64(data), bytes=len(data), complete=whole)
        if b"\0" in data:
            text = f"{printable(path)} is a binary file of at least {len(data)} bytes"
            return ToolReply.error(f"{text}; read it with the format base64")
        if form is not Format.TEXT and not (whole and offset == 0):
            raise MalformedError(f"{form} is read whole, of at most {_MAX_READ} bytes")
        detail = describe(data, form)
        text = data.decode(errors="replace")
        if not whole:
            end = offset + _MAX_READ
            text += f"\n… only {_MAX_READ} bytes are shown; go on at offset {end}"
        return ToolReply.ok(text, **detail)

    async def _write(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        data = encode(arguments.content or "", arguments.format)
        await context.workspace.change(writing.write_file, arguments.path, data)
        return ToolReply.ok(f"{len(data)} bytes written to {printable(arguments.path)}")

    async def _append(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        data = (arguments.content or "").encode()
        await context.workspace.change(writing.write_file, arguments.path, data, append=True)
        return ToolReply.ok(f"{len(data)} bytes written to {printable(arguments.path)}")

    async def _replace(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        """Every place where the pattern stands."""
        path = arguments.path
        entry = await context.workspace.look(reading.stat_file, path)
        if entry.size > _MAX_CHANGED:
            return ToolReply.error(f"{printable(path)} has more than {_MAX_CHANGED} bytes")
        old = await context.workspace.look(reading.read_file, path, 0, _MAX_CHANGED, entry.etag)
        wanted, becomes = (arguments.pattern or "").encode(), (arguments.content or "").encode()
        places = old.count(wanted)
        if not places:
            return ToolReply.error(f"{arguments.pattern!r} is nowhere in {printable(path)}")
        if len(old) + places * (len(becomes) - len(wanted)) > _MAX_CHANGED:
            return ToolReply.error(f"{printable(path)} would have more than {_MAX_CHANGED} bytes")
        new = old.replace(wanted, becomes)
        await context.workspace.change(writing.write_file, path, new)
        return ToolReply.ok(f"{places} places changed in {printable(path)}", places=places)

    async def _delete(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        version = await context.workspace.change(writing.remove, arguments.path)
        kept = f"; it is kept as version {version}" if version else ""
        return ToolReply.ok(f"{printable(arguments.path)} is deleted{kept}", version=version)

    async def _move(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        entry = await context.workspace.change(
            writing.move,
            arguments.path,
            arguments.destination or "",
            replace_existing=arguments.overwrite,
        )
        return ToolReply.ok(f"{printable(arguments.path)} is now {printable(entry.path)}")

    async def _copy(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        entry = await context.workspace.change(
            writing.copy,
            arguments.path,
            arguments.destination or "",
            replace_existing=arguments.overwrite,
        )
        return ToolReply.ok(f"{printable(arguments.path)} is also {printable(entry.path)}")

    async def _make_folder(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        entry = await context.workspace.change(writing.make_folder, arguments.path)
        return ToolReply.ok(f"{_line(entry)} is there")

    async def _search(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        wanted = arguments.pattern or ""
        found = await context.workspace.look(
            reading.search_files, wanted, arguments.path, limit=_MAX_HITS
        )
        lines = [f"{printable(hit.path)}:{hit.line}: {hit.text}" for hit in found.hits]
        if not found.complete:
            lines.append("… there may be more")
        return ToolReply.ok("\n".join(lines) or f"{wanted!r} is nowhere", hits=len(found.hits))

    async def _organize(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        by = arguments.by or OrganiseBy.KIND
        moves = await context.workspace.change(organising.organise, arguments.path, by)
        lines = [f"{printable(move.path)} is now {printable(move.destination)}" for move in moves]
        return ToolReply.ok("\n".join(lines) or "there is nothing to organize", moves=len(moves))

    async def _versions(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        found = await context.workspace.look(versions.list_versions, arguments.path)
        lines = [f"{each.id}: {printable(each.path)} ({each.size} bytes)" for each in found]
        return ToolReply.ok("\n".join(lines) or "no versions", versions=len(found))

    async def _restore(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        entry = await context.workspace.change(writing.restore_version, arguments.version or "")
        return ToolReply.ok(f"{_line(entry)} is restored")


def _line(entry: FileEntry) -> str:
    name = printable(entry.path)
    if entry.kind == "file":
        return f"{name} ({entry.size} bytes)"
    return f"{name}/" if entry.kind == "directory" else f"{name} ({entry.kind})"
