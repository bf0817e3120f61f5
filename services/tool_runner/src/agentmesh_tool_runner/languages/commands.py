"""How programs of each language are compiled and started."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from agentmesh_tool_runner.sandbox.model import INPUT_DIRECTORY, MIB, Limits

from .catalog import STRIPS_BY_ITSELF, Language
from .program import Program
from .toolchains import Found

_BUILD: Final = "/tmp/build"  # noqa: S108 - inside
_ES_MODULE: Final = re.compile(r"^\s*(import\b(?!\s*\()|export\b)", re.MULTILINE)
_JAVA_PACKAGE: Final = re.compile(r"^\s*package\s+([\w.]+)\s*;", re.MULTILINE)
_JAVA_TYPE: Final = re.compile(
    r"^\s*(public\s+)?(?:(?:final|abstract|sealed|strictfp)\s+)*"
    r"(?:class|interface|enum|record)\s+(\w+)",
    re.MULTILINE,
)
_JAVA_COMMENT: Final = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_JVM: Final = ("-XX:+UseSerialGC", "-Xshare:auto", "-XX:-UsePerfData")
_FILE_NAMES: Final[Mapping[Language, str]] = {
    Language.PYTHON: "main.py",
    Language.SHELL: "main.sh",
    Language.JAVASCRIPT: "main.js",
    Language.TYPESCRIPT: "main.ts",
    Language.C: "main.c",
    Language.CPP: "main.cpp",
    Language.GO: "main.go",
    Language.RUST: "main.rs",
}
# A jar is a zip; the tool of that name would start another machine.
_PACK: Final = """
import pathlib, sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as jar:
    for path in sorted(pathlib.Path(sys.argv[2]).rglob("*.class")):
        jar.writestr(zipfile.ZipInfo(str(path.relative_to(sys.argv[2]))), path.read_bytes())
"""


@dataclass(frozen=True)
class Command:
    """What is started, with the files that are laid beside it."""

    argv: Sequence[str]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Compilation:
    """A shell script that writes the compiled program to its standard output.

    `compiler` says with what, to the letter, so that a kept result can be trusted to be the same.
    """

    script: str
    compiler: str
    source_name: str


def file_name(program: Program) -> str:
    """What a program's text is called inside."""
    code = program.code or ""
    if program.language is Language.JAVA:
        return f"{_java_type(code)[1]}.java"
    if program.language is Language.JAVASCRIPT and _ES_MODULE.search(code):
        return "main.mjs"
    return _FILE_NAMES[program.language]


def interpreted(program: Program, tools: Mapping[str, Found], python: str) -> Command | None:
    """The command of a program that needs no compiler; None if it does."""
    match program.language:
        case Language.PYTHON:
            start = [python]
        case Language.SHELL:
            start = ["/bin/sh"]
        case Language.JAVASCRIPT:
            start = [tools["node"].path]
        case Language.TYPESCRIPT if "esbuild" not in tools:
            start = [tools["node"].path, *_stripping(tools["node"])]
        case _:
            return None
    if program.code is None:
        return Command([*start, program.path or "", *program.args], {})
    name = file_name(program)
    files = {name: program.code.encode()}
    return Command([*start, f"{INPUT_DIRECTORY}/{name}", *program.args], files)


def _stripping(node: Found) -> list[str]:
    last_of_22, first_of_all = STRIPS_BY_ITSELF
    if node.numbers >= first_of_all or last_of_22 <= node.numbers < (23,):
        return []
    return ["--experimental-strip-types", "--no-warnings"]


def compilation(program: Program, tools: Mapping[str, Found], python: str) -> Compilation:
    """How a program of a compiled language is compiled."""
    name = file_name(program)
    source = program.path if program.code is None else f"{INPUT_DIRECTORY}/{name}"
    out = f"{_BUILD}/program"
    match program.language:
        case Language.C:
            tool, rest = "cc", "-std=gnu17 -O1 -Wall -iquote . -o {out} {source} -lm"
        case Language.CPP:
            tool, rest = "c++", "-std=gnu++20 -O1 -Wall -iquote . -o {out} {source}"
        case Language.GO:
            tool, rest = "go", "build -o {out} {source}"
        case Language.RUST:
            tool = "rustc"
            rest = (
                "--edition 2021 -C opt-level=1 -C strip=symbols --crate-name program "
                "-o {out} {source}"
            )
        case Language.JAVA:
            tool = "javac"
            rest = (
                "-J-XX:+UseSerialGC -J-XX:TieredStopAtLevel=1 -J-XX:-UsePerfData -encoding UTF-8 "
                f"-sourcepath . -d {_BUILD}/classes {{source}}"
            )
        case _:
            tool = "esbuild"
            rest = (
                "{source} --bundle --packages=external --platform=node --format=esm "
                "--log-level=warning --outfile={out}"
            )
    command = f"{_quoted(tools[tool].path)} " + rest.format(out=out, source=_quoted(source or ""))
    lines = [
        f"mkdir -p {_BUILD}/classes || exit 1",
        f"export TMPDIR={_BUILD} GOCACHE={_BUILD}/cache GOPATH={_BUILD}/go",
        "export GO111MODULE=off GOTOOLCHAIN=local GOFLAGS= GOENV=off",
        f"{command} >&2 || exit 1",
    ]
    if program.language is Language.JAVA:
        pack = f"{_quoted(python)} -I -S {INPUT_DIRECTORY}/pack.py {out} {_BUILD}/classes"
        lines.append(f"{pack} || exit 1")
    lines.append(f"exec cat {out}")
    script = "\n".join(lines) + "\n"
    return Compilation(script, f"{tools[tool].said}\n{script}", name)


COMPILING_FILES: Final = {"pack.py": _PACK.encode()}


def compiled(
    program: Program, tools: Mapping[str, Found], artifact: bytes, code: str, limits: Limits
) -> Command:
    """The command of a compiled program; `code` is its source."""
    match program.language:
        case Language.TYPESCRIPT:
            start, name = [tools["node"].path], "main.mjs"
        case Language.JAVA:
            heap = max(16, limits.memory_bytes * 6 // 10 // MIB)
            name = "program.jar"
            path = f"{INPUT_DIRECTORY}/{name}"
            main = ".".join(part for part in _java_type(code) if part)
            java = [tools["java"].path, f"-Xmx{heap}m", *_JVM]
            return Command([*java, "-cp", path, main, *program.args], {name: artifact})
        case _:
            start, name = [], "program"
    return Command([*start, f"{INPUT_DIRECTORY}/{name}", *program.args], {name: artifact})


def _java_type(code: str) -> tuple[str, str]:
    """Package and name of the type that is started: the public one, else the first."""
    text = _JAVA_COMMENT.sub(" ", code)
    package = _JAVA_PACKAGE.search(text)
    types = [(bool(match[1]), match[2]) for match in _JAVA_TYPE.finditer(text)]
    public = [name for is_public, name in types if is_public]
    name = (public or [name for _, name in types] or ["Main"])[0]
    return package[1] if package else "", name


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def is_source_path(path: str) -> bool:
    """True for a path that stays in the workspace and is no option."""
    pure = PurePosixPath(path)
    return not path.startswith(("/", "-")) and ".." not in pure.parts and "\0" not in path
