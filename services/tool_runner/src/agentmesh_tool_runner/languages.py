"""Which languages run here, and how a program of each is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from .sandbox.backend import INPUT_DIRECTORY


class Language(Enum):
    """A language that programs can be run in."""

    PYTHON = "python"
    SHELL = "shell"


_FILE_NAMES = {Language.PYTHON: "main.py", Language.SHELL: "main.sh"}


def command_line(
    language: Language,
    *,
    python: str,
    code: str | None,
    path: str | None = None,
    args: Sequence[str] = (),
) -> tuple[list[str], Mapping[str, bytes]]:
    """Command and input files of a program, given as `code` or as a workspace file `path`."""
    interpreter = python if language is Language.PYTHON else "/bin/sh"
    if code is None:
        return [interpreter, path or "", *args], {}
    name = _FILE_NAMES[language]
    return [interpreter, f"{INPUT_DIRECTORY}/{name}", *args], {name: code.encode()}
