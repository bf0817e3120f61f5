"""Operations on a workspace as JSON: asked by the service, done by the agent beside the files.

Only plain data crosses: what comes back from a container is never unpickled. Standard library and
modules of the sandbox package only, for this runs inside.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_PACKAGE: Final = __name__.rsplit(".", 2)[0] + "."


def request(
    operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The header of a call."""
    return {
        "codec": __name__,
        "module": operation.__module__,
        "function": operation.__name__,
        "args": [pack(each) for each in args],
        "kwargs": {name: pack(each) for name, each in kwargs.items()},
    }


def perform(root: int, header: Mapping[str, Any]) -> dict[str, Any]:
    """Does what the header says with the files below `root`; the answer's header."""
    if not header["module"].startswith(_PACKAGE):
        raise ValueError(header["module"])
    operation = getattr(importlib.import_module(header["module"]), header["function"])
    args = [unpack(each) for each in header["args"]]
    kwargs = {name: unpack(each) for name, each in header["kwargs"].items()}
    try:
        return {"result": pack(operation(root, *args, **kwargs))}
    except OSError as error:
        told = {"errno": error.errno, "file": str(error.filename or "")}
        return {"error": "OSError", "text": error.strerror or str(error), **told}
    except Exception as error:
        kind = type(error)
        return {"error": kind.__name__, "module": kind.__module__, "text": str(error)}


def result(answer: Mapping[str, Any]) -> Any:
    """What the operation returned. Raises what it raised, RuntimeError for what is unknown."""
    if "error" not in answer:
        return unpack(answer["result"])
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


def pack(value: Any) -> Any:
    """Plain data as JSON can have it. Raises TypeError for anything else."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return {"choice": kind.__name__, "module": kind.__module__, "value": value.value}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, list | tuple):
        return [pack(each) for each in value]
    if dataclasses.is_dataclass(value) and kind.__module__.startswith(_PACKAGE):
        fields = [pack(getattr(value, each.name)) for each in dataclasses.fields(value)]
        return {"record": kind.__name__, "module": kind.__module__, "fields": fields}
    if isinstance(value, dict):
        return {"pairs": [[pack(name), pack(each)] for name, each in value.items()]}
    raise TypeError(f"{kind.__name__} does not go into a sandbox")


def unpack(value: Any) -> Any:
    """The reverse of `pack`; tuples come back as lists."""
    if isinstance(value, list):
        return [unpack(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "bytes" in value:
        return base64.b64decode(value["bytes"])
    if "pairs" in value:
        return {unpack(name): unpack(each) for name, each in value["pairs"]}
    kind = _known(value["module"], value.get("record") or value["choice"])
    if "choice" in value and isinstance(kind, enum.EnumMeta):
        return kind(value["value"])
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        raise TypeError(f"{value['module']} has no such record")
    return kind(*(unpack(each) for each in value["fields"]))
