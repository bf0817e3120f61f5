"""The languages there are, and what each needs to be installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Language(Enum):
    """A language that programs can be run in."""

    PYTHON = "python"
    SHELL = "shell"
    JAVASCRIPT = "javascript"
    TYPESCRIPT = "typescript"
    JAVA = "java"
    C = "c"
    CPP = "cpp"
    GO = "go"
    RUST = "rust"


@dataclass(frozen=True)
class Tool:
    """A program that runs or compiles others, as it is looked for in a sandbox."""

    name: str
    candidates: tuple[str, ...]
    """Names on the PATH, or whole paths; the first that answers is taken."""
    package: str
    """The Debian package that brings it."""
    version_option: str = "--version"


NODE: Final = Tool("node", ("node",), "nodejs", "-p process.version")
ESBUILD: Final = Tool("esbuild", ("esbuild",), "esbuild")
JAVA: Final = Tool("java", ("java",), "default-jdk-headless", "-version")
JAVAC: Final = Tool("javac", ("javac",), "default-jdk-headless", "-version")
CC: Final = Tool("cc", ("gcc", "cc", "clang"), "gcc libc6-dev")
CXX: Final = Tool("c++", ("g++", "c++", "clang++"), "g++")
GO: Final = Tool("go", ("go", "/usr/local/go/bin/go"), "golang-go", "version")
RUSTC: Final = Tool("rustc", ("rustc", "/usr/local/cargo/bin/rustc"), "rustc")

# All that a language takes; TypeScript does without a transpiler where Node.js takes types away.
TOOLS: Final[Mapping[Language, tuple[Tool, ...]]] = {
    Language.JAVASCRIPT: (NODE,),
    Language.TYPESCRIPT: (NODE, ESBUILD),
    Language.JAVA: (JAVA, JAVAC),
    Language.C: (CC,),
    Language.CPP: (CXX,),
    Language.GO: (GO,),
    Language.RUST: (RUSTC,),
}
"""Python and the shell are part of every sandbox."""

COMPILERS: Final[Mapping[Language, Tool]] = {
    Language.TYPESCRIPT: ESBUILD,
    Language.JAVA: JAVAC,
    Language.C: CC,
    Language.CPP: CXX,
    Language.GO: GO,
    Language.RUST: RUSTC,
}

# Node.js takes types away by itself from here on, at first if it is told to.
STRIPS_IF_TOLD: Final = (22, 6)
STRIPS_BY_ITSELF: Final = ((22, 18), (23, 6))
