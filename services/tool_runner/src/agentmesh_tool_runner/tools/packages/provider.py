"""The provider of tools that installed packages bring, by entry points that the operator allows."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any, Final

from agentmesh_tool_runner.sandbox.model import MIB
from agentmesh_tool_runner.tools.provider import ProvidedTool
from agentmesh_tool_runner.tools.reply import Failure, ReplyOutcome, ToolReply
from agentmesh_tool_runner.tools.spec import ToolSpec
from agentmesh_tool_runner.tools.tool import ToolContext

from . import GROUP
from .descent import kill_marked
from .pool import WorkerPool
from .worker import Frame, WorkerDiedError, WorkerRules

logger = logging.getLogger(__name__)

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class PackageRules:
    """Which packages may bring tools ("*": all), and what their workers may use."""

    allowed: Collection[str] = ()
    workers: int = 2
    memory_bytes: int = 1024 * MIB
    max_calls: int = 1000
    environment: Mapping[str, str] = field(default_factory=dict)
    import_seconds: float = 60.0


class PackageTool:
    """A tool of a package."""

    def __init__(self, spec: ToolSpec, pool: WorkerPool) -> None:
        self.spec = spec
        self._pool = pool

    async def call(self, context: ToolContext, arguments_json: str) -> ToolReply:
        """In a worker, which is killed if the call takes too long or is cancelled."""
        name, seconds = self.spec.name, context.limits.wall_seconds
        started = False
        try:
            async with self._pool.worker(context.tenant) as worker:
                started = True
                async with asyncio.timeout(seconds):
                    return _reply(name, await worker.call(context, name, arguments_json))
        except TimeoutError:
            text = f"{name} took longer than {seconds:g} s and was killed"
            return ToolReply.failed(Failure.TIMEOUT, text)
        except WorkerDiedError as error:
            if started:
                return ToolReply.failed(Failure.CRASHED, f"{name} died under the call: {error}")
            logger.warning("no worker for %s: %s", name, error)
            text = f"{name} cannot be started; nothing was done"
            return ToolReply.failed(Failure.UNAVAILABLE, text).without_effect()


class PackageTools:
    """Finds the packages, and has a pool of workers for each."""

    def __init__(self, rules: PackageRules, data_folder: Path) -> None:
        self._rules = rules
        self._data_folder = data_folder
        self._home = hashlib.sha256(str(data_folder.resolve()).encode()).hexdigest()[:16]
        self._pools: list[WorkerPool] = []
        self._tools: list[PackageTool] = []
        self._folder: Path | None = None

    async def start(self) -> None:
        """Starts a worker of each package and asks it for its tools."""
        if not self._rules.allowed:
            return
        await asyncio.to_thread(kill_marked, self._is_of_a_dead_predecessor)
        for package in _not_installed(self._rules.allowed):
            logger.error("AGENTMESH_TOOL_PACKAGES names %s, which is not installed", package)
        try:
            self._folder = await asyncio.to_thread(self._make_folder)
        except OSError as error:
            logger.error("no package brings tools: there is no folder for its workers: %s", error)
            return
        found = _offered(self._rules.allowed)
        async with asyncio.TaskGroup() as starting:
            for package, entries in sorted(found.items()):
                starting.create_task(self._open(package, entries, self._folder))

    def _make_folder(self) -> Path:
        """Where workers may write what they need for a while; those of the dead are removed."""
        for folder in self._data_folder.glob("workers-*"):
            if not Path(f"/proc/{folder.name.removeprefix('workers-')}").exists():
                shutil.rmtree(folder, ignore_errors=True)
        own = self._data_folder / f"workers-{os.getpid()}"
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        return own

    async def _open(self, package: str, entries: Sequence[EntryPoint], folder: Path) -> None:
        distribution = entries[0].dist
        version = distribution.version if distribution else ""
        rules = WorkerRules(
            package=package,
            tools={entry.name: entry.value for entry in entries},
            folder=folder,
            memory_bytes=self._rules.memory_bytes,
            max_calls=self._rules.max_calls,
            environment=self._rules.environment,
            import_seconds=self._rules.import_seconds,
        )
        pool = WorkerPool(rules, self._rules.workers, f"{self._home}:{os.getpid()}:")
        try:
            hello = await pool.start()
        except WorkerDiedError as error:
            logger.error("the tools of %s %s are not offered: %s", package, version, error)
            return
        self._pools.append(pool)
        for name, problem in hello["problems"].items():
            logger.error("the tool %s of %s %s is not offered: %s", name, package, version, problem)
        for fields in hello["tools"]:
            spec = ToolSpec(**fields, version=version, origin=f"{package} {version}")
            self._tools.append(PackageTool(spec, pool))
        logger.info("%s %s brings %d tools", package, version, len(hello["tools"]))

    def tools(self) -> Sequence[ProvidedTool]:
        """Of all packages."""
        return self._tools

    async def close(self) -> None:
        """Kills the workers."""
        for pool in self._pools:
            await pool.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _is_of_a_dead_predecessor(self, mark: str) -> bool:
        home, _, rest = mark.partition(":")
        pid = rest.partition(":")[0]
        return home == self._home and pid.isdigit() and not Path(f"/proc/{pid}").exists()


def _offered(allowed: Collection[str]) -> dict[str, list[EntryPoint]]:
    """Entry points by package. What cannot be told apart is offered by nobody."""
    names = {_canonical(name) for name in allowed}
    by_name: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        if entry.dist is None or not ("*" in names or _canonical(entry.dist.name) in names):
            continue
        by_name.setdefault(entry.name, {})[entry.dist.name] = entry
    found: dict[str, list[EntryPoint]] = {}
    for name, packages in sorted(by_name.items()):
        if not _NAME.fullmatch(name):
            logger.error("%r is no name of a tool: letters, digits, _ and -, at most 64", name)
        elif len(packages) > 1:
            both = " and ".join(sorted(packages))
            logger.error("%s both bring the tool %s; allow one of them only", both, name)
        else:
            [(package, entry)] = packages.items()
            found.setdefault(package, []).append(entry)
    return found


def _not_installed(allowed: Collection[str]) -> list[str]:
    installed = {_canonical(found.name) for found in distributions() if found.name}
    return sorted({_canonical(name) for name in allowed} - installed - {"*"})


def _canonical(name: str) -> str:
    """A distribution's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _reply(name: str, done: Frame) -> ToolReply:
    """What the worker says, as a reply."""
    if log := done.get("log"):
        logger.warning("%s raised:\n%s", name, log)
    text, detail = str(done.get("text", "")), _mapping(done.get("detail"))
    cpu = float(done.get("cpu_seconds", 0.0))
    if kind := done.get("failure"):
        return ToolReply(ReplyOutcome.ERROR, text, detail, cpu_seconds=cpu, failure=Failure(kind))
    if done.get("failed"):
        failed = ToolReply(ReplyOutcome.ERROR, text, cpu_seconds=cpu)
        return failed.without_effect() if done.get("retry") else failed
    return ToolReply(
        ReplyOutcome.OK, text, detail, truncated=bool(done.get("truncated")), cpu_seconds=cpu
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
