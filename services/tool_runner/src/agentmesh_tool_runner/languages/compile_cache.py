"""Compiled programs, kept by the service where no sandbox reaches them.

A program is found again only under the hash of everything that it was made of: tenant, source,
files, compiler and flags. It was made in a sandbox that held nothing else, and is checked against
its own hash when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

_LENGTH_BYTES: Final = 4


@dataclass(frozen=True)
class Compiled:
    """A compiled program, and what the compiler said of it."""

    artifact: bytes
    said: bytes = b""


@dataclass(frozen=True)
class CompileKey:
    """What a compiled program is made of."""

    tenant: str
    compiler: str
    source: str
    files: Mapping[str, bytes]

    @cached_property
    def name(self) -> str:
        """A relative path, another for each key."""
        parts = [
            self.compiler,
            self.source,
            *(
                (path, hashlib.sha256(data).hexdigest())
                for path, data in sorted(self.files.items())
            ),
        ]
        return f"{_digest(self.tenant)}/{_digest(json.dumps(parts))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class CompileCache:
    """Bounded in bytes; what was not used for longest goes first. Its methods may block."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._sizes: OrderedDict[str, int] | None = None
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    def find(self, key: CompileKey) -> Compiled | None:
        """A kept program; one that was damaged is forgotten."""
        if not self._max_bytes:
            return None
        with self._lock:
            sizes, path = self._known(), self._folder / key.name
            try:
                data = path.read_bytes()
            except OSError:
                sizes.pop(key.name, None)
                return None
            compiled = _unpacked(data)
            if compiled is None:
                self._forget(key.name)
                return None
            sizes[key.name] = len(data)
            sizes.move_to_end(key.name)
            with contextlib.suppress(OSError):
                os.utime(path)
            return compiled

    def keep(self, key: CompileKey, compiled: Compiled) -> None:
        """Keeps it if it fits at all. A disk that is full keeps nothing."""
        data = _packed(compiled)
        if len(data) > self._max_bytes:
            return
        with self._lock, contextlib.suppress(OSError):
            sizes, path = self._known(), self._folder / key.name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = path.with_suffix(f".{os.getpid()}-{next(self._numbers)}")
            try:
                beside.touch(mode=0o600)
                beside.write_bytes(data)
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
            sizes[key.name] = len(data)
            sizes.move_to_end(key.name)
            while sum(sizes.values()) > self._max_bytes:
                self._forget(next(iter(sizes)))

    def _forget(self, name: str) -> None:
        self._known().pop(name, None)
        with contextlib.suppress(OSError):
            (self._folder / name).unlink(missing_ok=True)

    def _known(self) -> OrderedDict[str, int]:
        """Sizes by name, the least recently used first; at first as the disk has them."""
        if self._sizes is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = []
            for path in self._folder.glob("*/*"):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    if path.suffix:
                        path.unlink()  # of a process that died
                        continue
                    name = str(path.relative_to(self._folder))
                    found.append((status.st_mtime, name, status.st_size))
            self._sizes = OrderedDict((name, size) for _, name, size in sorted(found))
        return self._sizes


def _packed(compiled: Compiled) -> bytes:
    length = len(compiled.said).to_bytes(_LENGTH_BYTES, "big")
    body = length + compiled.said + compiled.artifact
    return hashlib.sha256(body).digest() + body


def _unpacked(data: bytes) -> Compiled | None:
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    length = int.from_bytes(body[:_LENGTH_BYTES], "big")
    rest = body[_LENGTH_BYTES:]
    return Compiled(rest[length:], rest[:length])
