"""Fetches the wheels of what a program needs, where that is allowed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from agentmesh_tool_runner.languages import CompileCache
from agentmesh_tool_runner.languages.compile_cache import Compiled, CompileKey
from agentmesh_tool_runner.sandbox.backend import SandboxBackend
from agentmesh_tool_runner.sandbox.model import (
    MIB,
    ExecutionSpec,
    Limits,
    SandboxUnavailableError,
    Stream,
    WorkspaceKey,
)

from . import index
from .index import IndexFile
from .requirements import (
    PackagesNotAllowedError,
    PackageWish,
    Requirement,
    UnknownPackageError,
)

_KEY: Final = WorkspaceKey(tenant="", conversation="packages", temporary=True)
_LIMITS: Final = Limits(wall_seconds=30)
_WHEELS_BYTES: Final = 64 * MIB
_ANY: Final = "py3-none-any"
# Asked of the interpreter inside, for wheels are for it and not for the service's.
_TAGS: Final = f"""
try:
    from packaging.tags import sys_tags
    print(*sys_tags(), sep="\\n")
except ImportError:
    print({_ANY!r})
"""


class Packages:
    """Wheels from the indexes that are allowed; from none, as it is unless an operator says so."""

    def __init__(
        self,
        backend: Callable[[], SandboxBackend],
        indexes: Sequence[str],
        cache: CompileCache,
    ) -> None:
        """Wheels are kept in the cache by index and digest, for all tenants: they are no secret."""
        self._backend = backend
        self._indexes = tuple(url.rstrip("/") for url in indexes)
        self._cache = cache
        self._tags: list[str] = []
        self._asking = asyncio.Lock()

    async def fetch(self, wish: PackageWish) -> Mapping[str, bytes]:
        """The wheels by file name.

        Raises PackagesNotAllowedError, UnknownPackageError, PackagesUnavailableError,
        SandboxUnavailableError.
        """
        if not wish.requirements:
            return {}
        if not self._indexes:
            raise PackagesNotAllowedError(
                "packages are not installed here; AGENTMESH_PACKAGE_INDEXES names the indexes that "
                "they may come from"
            )
        url = wish.index_url.rstrip("/") or self._indexes[0]
        if url not in self._indexes:
            raise PackagesNotAllowedError(f"{url} is none of the allowed indexes")
        async with self._asking:
            self._tags = self._tags or await self._ask_tags()
        wheels: dict[str, bytes] = {}
        for requirement in wish.requirements:
            room = _WHEELS_BYTES - sum(map(len, wheels.values()))
            name, data = await asyncio.to_thread(self._wheel, url, requirement, room)
            wheels[name] = data
        return wheels

    def _wheel(self, url: str, requirement: Requirement, room: int) -> tuple[str, bytes]:
        offered = index.files(url, requirement.normalized)
        file = choose(offered, requirement, self._tags)
        key = CompileKey("", f"wheel of {url}", file.sha256, {})
        kept = self._cache.find(key)
        if kept is not None:
            return file.name, kept.artifact
        data = index.download(file, room)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise PackagesNotAllowedError(f"{file.name} has not the digest that it should have")
        self._cache.keep(key, Compiled(data))
        return file.name, data

    async def _ask_tags(self) -> list[str]:
        backend = self._backend()
        workspace = await backend.workspace(_KEY)
        try:
            spec = ExecutionSpec([backend.python, "-I", "-c", _TAGS], limits=_LIMITS)
            execution = await workspace.execute(spec)
            said = b"".join([p.data async for p in execution.output() if p.stream is Stream.STDOUT])
            outcome = await execution.outcome()
        finally:
            await asyncio.shield(backend.delete_workspace(_KEY))
        if not outcome.succeeded:
            raise SandboxUnavailableError(f"its Python does not tell its tags: {outcome.reason}")
        return said.decode().split()


def choose(
    offered: Sequence[IndexFile], requirement: Requirement, tags: Sequence[str]
) -> IndexFile:
    """The wheel that suits the interpreter best.

    Raises UnknownPackageError, and PackagesNotAllowedError if it is only that none may be trusted.
    """
    ranks = {tag: rank for rank, tag in enumerate(tags)}
    suiting = [
        (min(ranks[tag] for tag in found), file)
        for file in offered
        if (found := [tag for tag in _tags_of(file.name, requirement) if tag in ranks])
    ]
    if not suiting:
        raise UnknownPackageError(
            f"{requirement}: the index has no wheel of it for this interpreter, and only wheels "
            "are installed, for to build a package is to run it"
        )
    trusted = [
        (rank, file)
        for rank, file in suiting
        if file.sha256 and (not requirement.sha256 or file.sha256 in requirement.sha256)
    ]
    if not trusted:
        raise PackagesNotAllowedError(f"{requirement}: no wheel of it has a digest that is wanted")
    return min(trusted, key=lambda each: each[0])[1]


def _tags_of(name: str, requirement: Requirement) -> list[str]:
    """What a wheel is for, if it is one of that package and version; see PEP 427."""
    parts = name.removesuffix(".whl").split("-")
    if not name.endswith(".whl") or "/" in name or len(parts) not in (5, 6):
        return []
    if Requirement(parts[0], parts[1]).normalized != requirement.normalized:
        return []
    if parts[1].lower() != requirement.version.replace("-", "_").lower():
        return []
    pythons, abis, platforms = (part.split(".") for part in parts[-3:])
    return [
        f"{python}-{abi}-{platform}" for python in pythons for abi in abis for platform in platforms
    ]
