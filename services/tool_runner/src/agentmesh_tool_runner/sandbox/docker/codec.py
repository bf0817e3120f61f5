"""Operations on a workspace as JSON: asked by the service, done by the agent beside the files.

Only plain data crosses: what comes back from a container is never unpickled. Standard library and
modules of the sandbox package only, for this runs inside.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_PACKAGE: Final = __name__.rsplit(".", 2)[0] + "."


def request(
    operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """A call as header and payload."""
    blobs: list[bytes] = []
    header = {
        "codec": __name__,
        "module": operation.__module__,
        "function": operation.__name__,
        "args": pack(args, blobs),
        "kwargs": [[name, pack(each, blobs)] for name, each in kwargs.items()],
    }
    return header, b"".join(blobs)


def perform(root: int, header: Mapping[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Does what the call says with the files below `root`; the answer."""
    if not header["module"].startswith(_PACKAGE):
        raise ValueError(header["module"])
    operation = getattr(importlib.import_module(header["module"]), header["function"])
    args = unpack(header["args"], payload)
    kwargs = {name: unpack(each, payload) for name, each in header["kwargs"]}
    blobs: list[bytes] = []
    try:
        answer = {"result": pack(operation(root, *args, **kwargs), blobs)}
    except OSError as error:
        told = {"errno": error.errno, "file": str(error.filename or "")}
        answer = {"error": "OSError", "text": error.strerror or str(error), **told}
    except Exception as error:
        kind = type(error)
        answer = {"error": kind.__name__, "module": kind.__module__, "text": str(error)}
    return answer, b"".join(blobs)


def result(answer: Mapping[str, Any], payload: bytes) -> Any:
    """What the operation returned. Raises what it raised, RuntimeError for what is unknown."""
    if "error" not in answer:
        return unpack(answer["result"], payload)
    text = str(answer["text"])
    if answer["error"] == "OSError" and isinstance(answer["errno"], int):
        # OSError finds its own subclass by the number.
        raise OSError(answer["errno"], text, *([answer["file"]] if answer["file"] else []))
    kind = _known(str(answer.get("module")), str(answer["error"]))
    if isinstance(kind, type) and issubclass(kind, Exception):
        raise kind(text)
    raise ValueError(text) if answer["error"] == "ValueError" else RuntimeError(text)


def _known(module: str, name: str) -> Any:
    """A class of the sandbox package that this process has loaded itself; else None."""
    if not module.startswith(_PACKAGE):
        return None
    return getattr(sys.modules.get(module), name, None)


def pack(value: Any, blobs: list[bytes]) -> Any:
    """Plain data as JSON can have it, its bytes put aside. Raises TypeError for anything else."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return {"choice": kind.__name__, "module": kind.__module__, "value": value.value}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        blobs.append(value)
        return {"blob": sum(map(len, blobs[:-1])), "size": len(value)}
    if isinstance(value, list | tuple):
        return [pack(each, blobs) for each in value]
    if dataclasses.is_dataclass(value) and kind.__module__.startswith(_PACKAGE):
        fields = [pack(getattr(value, each.name), blobs) for each in dataclasses.fields(value)]
        return {"record": kind.__name__, "module": kind.__module__, "fields": fields}
    if isinstance(value, dict):
        return {"pairs": [[pack(name, blobs), pack(each, blobs)] for name, each in value.items()]}
    raise TypeError(f"{kind.__name__} does not go into a sandbox")


def unpack(value: Any, payload: bytes) -> Any:
    """The reverse of `pack`; tuples come back as lists."""
    if isinstance(value, list):
        return [unpack(each, payload) for each in value]
    if not isinstance(value, dict):
        return value
    if "blob" in value:
        return payload[value["blob"] : value["blob"] + value["size"]]
    if "pairs" in value:
        return {unpack(name, payload): unpack(each, payload) for name, each in value["pairs"]}
    kind = _known(value["module"], value.get("record") or value["choice"])
    if "choice" in value and isinstance(kind, enum.EnumMeta):
        return kind(value["value"])
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        raise TypeError(f"{value['module']} has no such record")
    return kind(*(unpack(each, payload) for each in value["fields"]))
