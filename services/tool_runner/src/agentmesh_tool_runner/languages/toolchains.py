"""What is installed in the sandboxes, found out by asking there."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from agentmesh_tool_runner.sandbox.backend import SandboxBackend
from agentmesh_tool_runner.sandbox.model import (
    INPUT_DIRECTORY,
    EndReason,
    ExecutionSpec,
    Limits,
    SandboxUnavailableError,
    Stream,
    WorkspaceKey,
)

from .catalog import COMPILERS, STRIPS_IF_TOLD, TOOLS, Language, Tool

_KEY: Final = WorkspaceKey(tenant="", conversation="toolchains", temporary=True)
_LIMITS: Final = Limits(wall_seconds=60, cpu_seconds=60, cpus=2.0)
_ASK_AGAIN_SECONDS: Final = 60.0
# Each argument is a name, how its version is asked for, and candidates. One line for each that is
# there, with the exit code of the question.
_LOOK: Final = r"""
printf 'shell\t/bin/sh\t0\t%s\n' "$(basename "$(readlink -f /bin/sh)")"
for wanted; do
    name=${wanted%%=*} rest=${wanted#*=}
    option=${rest%%=*} candidates=${rest#*=}
    for candidate in $candidates; do
        path=$(command -v "$candidate") || continue
        said=$(timeout -s KILL 10 "$path" $option 2>&1 </dev/null); failed=$?
        said=$(printf %s "$said" | grep -m 1 '[[:alnum:]]')
        printf '%s\t%s\t%s\t%s\n' "$name" "$path" "$failed" "$said"
        [ $failed = 0 ] && break
    done
done
exit 0
"""
_VERSION: Final = re.compile(r"\d+(\.\d+)+[\w.+~-]*")


class LanguageNotInstalledError(Exception):
    """Nothing in the sandboxes runs programs of the language; `remedy` says what to install."""

    def __init__(self, language: Language, remedy: str) -> None:
        super().__init__(f"{language.value} is not installed in the sandboxes; {remedy}")
        self.language = language
        self.remedy = remedy


@dataclass(frozen=True)
class Found:
    """A tool as it is inside. `said` is the line in which it told its version."""

    path: str
    said: str

    @property
    def version(self) -> str:
        """The number alone, if there is one."""
        match = _VERSION.search(self.said)
        return match[0] if match else self.said

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version, to be compared."""
        return tuple(int(number) for number in re.findall(r"\d+", self.version)[:3])


@dataclass(frozen=True)
class LanguageSupport:
    """What there is for a language. `remedy` is empty if its programs can be run."""

    language: Language
    version: str = ""
    compiler: str = ""
    remedy: str = ""


class Toolchains:
    """Asks once for what there is, and again after a while for what was not there."""

    def __init__(self, backend: Callable[[], SandboxBackend]) -> None:
        self._backend = backend
        self._found: dict[str, Found] = {}
        self._broken: dict[str, Found] = {}
        self._missing: dict[str, float] = {}
        self._asking = asyncio.Lock()

    async def tools_of(self, language: Language) -> Mapping[str, Found]:
        """The tools of a language, by name.

        Raises LanguageNotInstalledError, SandboxUnavailableError.
        """
        await self._look(TOOLS.get(language, ()))
        remedy = self._remedy(language)
        if remedy:
            raise LanguageNotInstalledError(language, remedy)
        names = (tool.name for tool in TOOLS.get(language, ()))
        return {name: self._found[name] for name in names if name in self._found}

    async def support(self) -> list[LanguageSupport]:
        """Every language. Raises SandboxUnavailableError."""
        python = Tool("python", (self._backend().python,), "python3")
        await self._look({tool for tools in TOOLS.values() for tool in tools} | {python})
        return [self._support(language) for language in Language]

    def _support(self, language: Language) -> LanguageSupport:
        tools = TOOLS.get(language)
        if tools is None:
            found = self._found.get(language.value)
            return LanguageSupport(language, found.version if found else "")
        remedy = self._remedy(language)
        if remedy:
            return LanguageSupport(language, remedy=remedy)
        compiler = COMPILERS.get(language)
        by = self._found.get(compiler.name) if compiler else None
        return LanguageSupport(language, self._found[tools[0].name].version, by.path if by else "")

    def _remedy(self, language: Language) -> str:
        missing = [tool for tool in TOOLS.get(language, ()) if tool.name not in self._found]
        node = self._found.get("node")
        if language is Language.TYPESCRIPT and node and node.numbers >= STRIPS_IF_TOLD:
            return ""
        for tool in missing:
            if broken := self._broken.get(tool.name):
                return f"{broken.path} does not run in a sandbox here: {broken.said[:200]}"
        packages = " ".join(dict.fromkeys(tool.package for tool in missing))
        return f"install {packages} where sandboxes see it" if packages else ""

    async def _look(self, tools: Iterable[Tool]) -> None:
        async with self._asking:
            old = time.monotonic() - _ASK_AGAIN_SECONDS
            wanted = [
                tool
                for tool in sorted(tools, key=lambda tool: tool.name)
                if tool.name not in self._found and self._missing.get(tool.name, old) <= old
            ]
            if wanted:
                await self._ask(wanted)
                now = time.monotonic()
                self._missing |= {tool.name: now for tool in wanted}

    async def _ask(self, tools: Iterable[Tool]) -> None:
        arguments = [
            f"{tool.name}={tool.version_option}={' '.join(tool.candidates)}" for tool in tools
        ]
        backend = self._backend()
        workspace = await backend.workspace(_KEY)
        try:
            spec = ExecutionSpec(
                ["/bin/sh", f"{INPUT_DIRECTORY}/look.sh", *arguments],
                files={"look.sh": _LOOK.encode()},
                limits=_LIMITS,
            )
            execution = await workspace.execute(spec)
            said = b"".join(
                [piece.data async for piece in execution.output() if piece.stream is Stream.STDOUT]
            )
            outcome = await execution.outcome()
        finally:
            await asyncio.shield(backend.delete_workspace(_KEY))
        if outcome.reason not in (EndReason.EXITED, EndReason.WALL_TIMEOUT):
            raise SandboxUnavailableError(
                f"what is installed could not be found out: {outcome.reason.value} {outcome.detail}"
            )
        for line in said.decode(errors="replace").splitlines():
            name, path, failed, words = line.split("\t", 3)
            (self._found if failed == "0" else self._broken)[name] = Found(path, words)
