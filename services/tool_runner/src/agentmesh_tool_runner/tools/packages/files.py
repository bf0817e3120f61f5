"""What workers ask of the files of a conversation."""

from __future__ import annotations

import base64
import errno
from collections.abc import Mapping
from typing import Any, Final

from agentmesh_tool_runner.sandbox.backend import Workspace
from agentmesh_tool_runner.sandbox.beneath import UnsafePathError
from agentmesh_tool_runner.sandbox.model import WorkspaceFullError

from .frames import MAX_FILE_BYTES, ProtocolError

_MAX_ENTRIES: Final = 1000


async def answer(workspace: Workspace | None, frame: Mapping[str, Any]) -> dict[str, Any]:
    """Carries out what a frame asks for. What goes wrong is part of the answer.

    Raises ProtocolError for a frame that no worker writes.
    """
    try:
        if workspace is None:
            raise PermissionError(errno.EACCES, "the tool takes no context")
        return await _do(workspace, frame)
    except UnsafePathError as error:
        return {"errno": errno.EACCES, "error": str(error)}
    except WorkspaceFullError as error:
        return {"errno": errno.ENOSPC, "error": str(error)}
    except OSError as error:
        return {"errno": error.errno or errno.EIO, "error": error.strerror or str(error)}
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"a file frame that lacks something: {error}") from None


async def _do(workspace: Workspace, frame: Mapping[str, Any]) -> dict[str, Any]:
    path = str(frame["path"])
    match frame["operation"]:
        case "list":
            entries = await workspace.list_files(path, limit=_MAX_ENTRIES)
            return {"entries": [{"path": e.path, "kind": e.kind, "size": e.size} for e in entries]}
        case "read":
            offset = int(frame["offset"])
            data = await workspace.read_file(path, offset=offset, limit=MAX_FILE_BYTES)
            return {"data": base64.b64encode(data).decode()}
        case "write":
            data = base64.b64decode(frame["data"], validate=True)
            await workspace.write_file(path, data, append=bool(frame["append"]))
        case "move":
            await workspace.move(path, str(frame["destination"]))
        case "remove":
            await workspace.remove(path)
        case other:
            raise ValueError(f"operation {other!r}")
    return {}
