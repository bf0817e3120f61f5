"""file_manager: the files of the workspace, and never another."""

from __future__ import annotations

import fnmatch
from typing import Final, Literal

from pydantic import Field, model_validator

from .tool import Arguments, Tool, ToolContext, ToolReply

_MAX_READ: Final = 256 * 1024
_MAX_WRITE: Final = 1024 * 1024
_MAX_ENTRIES: Final = 500
_SEARCHED_FILES: Final = 2000
_MAX_HITS: Final = 200


class FileArguments(Arguments):
    """An action on a file or folder."""

    action: Literal["list", "read", "write", "append", "delete", "move", "search"]
    path: str = Field(default=".", max_length=1024, description="Relative to the workspace.")
    content: str | None = Field(default=None, max_length=_MAX_WRITE)
    destination: str | None = Field(default=None, max_length=1024)
    pattern: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="list: a glob such as *.py; search: the text to find.",
    )

    @model_validator(mode="after")
    def _action_has_what_it_needs(self) -> FileArguments:
        needed = {"write": "content", "append": "content", "move": "destination"}
        needed["search"] = "pattern"
        field = needed.get(self.action)
        if field and getattr(self, field) is None:
            raise ValueError(f"{field}: {self.action} needs it")
        return self


class FileManager(Tool[FileArguments]):
    """Reads and changes files."""

    name = "file_manager"
    description = (
        "Lists, reads, writes, appends to, deletes, moves and searches files of the workspace."
    )
    safe_to_repeat = False
    arguments = FileArguments

    async def act(self, context: ToolContext, arguments: FileArguments) -> ToolReply:
        """Carries out the action."""
        match arguments.action:
            case "list":
                return await _list(context, arguments)
            case "read":
                return await _read(context, arguments.path)
            case "write" | "append":
                data = (arguments.content or "").encode()
                append = arguments.action == "append"
                await context.workspace.write_file(arguments.path, data, append=append)
                return ToolReply.ok(f"{len(data)} bytes written to {arguments.path}")
            case "delete":
                await context.workspace.remove(arguments.path)
                return ToolReply.ok(f"{arguments.path} is deleted")
            case "move":
                destination = arguments.destination or ""
                await context.workspace.move(arguments.path, destination)
                return ToolReply.ok(f"{arguments.path} is now {destination}")
            case "search":
                return await _search(context, arguments)


async def _list(context: ToolContext, arguments: FileArguments) -> ToolReply:
    entries = await context.workspace.list_files(arguments.path, limit=_MAX_ENTRIES)
    if arguments.pattern:
        entries = [entry for entry in entries if fnmatch.fnmatch(entry.path, arguments.pattern)]
    lines = [
        f"{entry.path}/" if entry.kind == "directory" else f"{entry.path} ({entry.size} bytes)"
        for entry in entries
    ]
    return ToolReply.ok("\n".join(lines) or "no files", entries=len(lines))


async def _read(context: ToolContext, path: str) -> ToolReply:
    data = await context.workspace.read_file(path, limit=_MAX_READ + 1)
    if b"\0" in data:
        return ToolReply.error(f"{path} is a binary file of at least {len(data)} bytes")
    text = data[:_MAX_READ].decode(errors="replace")
    if len(data) > _MAX_READ:
        text += f"\n… only the first {_MAX_READ} bytes are shown"
    return ToolReply.ok(text)


async def _search(context: ToolContext, arguments: FileArguments) -> ToolReply:
    hits: list[str] = []
    wanted = arguments.pattern or ""
    for entry in await context.workspace.list_files(arguments.path, limit=_SEARCHED_FILES):
        if entry.kind != "file" or len(hits) >= _MAX_HITS:
            continue
        data = await context.workspace.read_file(entry.path, limit=_MAX_READ)
        for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
            if wanted in line:
                hits.append(f"{entry.path}:{number}: {line.strip()[:300]}")
    shown = hits[:_MAX_HITS]
    return ToolReply.ok("\n".join(shown) or f"{wanted!r} is nowhere", hits=len(shown))
