"""How the agent gets into a container that has nothing but Python.

The text of this file is an argument of the container's interpreter; the modules come first of all
on its standard input: their length in eight bytes, then a JSON object of names and texts.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from typing import Any


class Sources(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Modules of the service whose text came in a frame. Packages are empty."""

    def __init__(self, sources: dict[str, str]) -> None:
        self._sources = sources

    def find_spec(self, fullname: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if fullname in self._sources:
            return importlib.util.spec_from_loader(fullname, self)
        if any(name.startswith(fullname + ".") for name in self._sources):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def get_source(self, fullname: str) -> str:
        """The text of a module; of a package none."""
        return self._sources.get(fullname, "")

    def is_package(self, fullname: str) -> bool:
        """True for what only holds modules."""
        return fullname not in self._sources


def take(count: int) -> bytes:
    """So many bytes of the standard input; exits if it ends before."""
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data


def boot() -> None:
    """Takes the modules and runs the first argument's `main`."""
    sources = json.loads(take(int.from_bytes(take(8), "big")))
    sys.meta_path.insert(0, Sources(sources))
    importlib.import_module(sys.argv[1]).main()


if __name__ == "__main__":
    boot()
