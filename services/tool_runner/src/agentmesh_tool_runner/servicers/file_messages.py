"""Files between the contract's messages and plain values."""

from __future__ import annotations

import base64
import mimetypes
from typing import Final

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from meshkit.errors import MeshError

from agentmesh_tool_runner.sandbox.beneath import UnsafePathError
from agentmesh_tool_runner.sandbox.files.organising import OrganiseBy
from agentmesh_tool_runner.sandbox.files.tree import inside
from agentmesh_tool_runner.sandbox.model import FileEntry, FileVersion

_KINDS: Final = {
    "file": pb.FILE_KIND_FILE,
    "directory": pb.FILE_KIND_FOLDER,
    "link": pb.FILE_KIND_LINK,
    "other": pb.FILE_KIND_OTHER,
}
ORGANISE_BY: Final = {
    pb.ORGANIZE_BY_KIND: OrganiseBy.KIND,
    pb.ORGANIZE_BY_EXTENSION: OrganiseBy.EXTENSION,
    pb.ORGANIZE_BY_DATE: OrganiseBy.DATE,
    pb.ORGANIZE_BY_SIZE: OrganiseBy.SIZE,
}


def file_info(entry: FileEntry) -> pb.FileInfo:
    """An entry of a workspace."""
    message = pb.FileInfo(
        path=entry.path,
        size_bytes=entry.size,
        kind=_KINDS[entry.kind],
        etag=entry.etag,
        sha256=entry.sha256,
    )
    if entry.kind == "file":
        message.media_type = mimetypes.guess_type(entry.path)[0] or ""
    message.modified_at.FromNanoseconds(round(entry.modified_at * 1e9))
    return message


def version_message(version: FileVersion) -> pb.FileVersion:
    """A kept version."""
    message = pb.FileVersion(
        id=version.id, path=version.path, kind=_KINDS[version.kind], size_bytes=version.size
    )
    message.kept_at.FromNanoseconds(round(version.kept_at * 1e9))
    return message


def check_paths(**paths: str) -> None:
    """Raises MeshError that names the field whose path is none of a workspace."""
    for field, path in paths.items():
        try:
            inside(path or ".")
        except UnsafePathError as error:
            raise MeshError.invalid(field, str(error)) from None


def page_token(last: FileEntry) -> str:
    """Where the next page begins."""
    return base64.urlsafe_b64encode(last.path.encode()).decode()


def path_of_token(token: str) -> str:
    """The last path of the page before; empty for the first page."""
    try:
        path = base64.b64decode(token, altchars=b"-_", validate=True).decode()
        inside(path or ".")
    except (ValueError, UnsafePathError):  # no base64, or no ASCII, or no UTF-8 in it
        raise MeshError.invalid("page_token", "it is none that ListFiles returned") from None
    return path
