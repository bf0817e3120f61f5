"""ExecuteRequest, checked and as the domain has it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from meshkit.context import current_principal
from meshkit.errors import FieldViolation, MeshError
from meshkit.ids import new_id
from meshkit.telemetry import current_traceparent

from agentmesh_tool_runner import translate
from agentmesh_tool_runner.languages import Program
from agentmesh_tool_runner.packages import PackageWish, Requirement
from agentmesh_tool_runner.runs import CodeRun
from agentmesh_tool_runner.sandbox.beneath import UnsafePathError, normalize
from agentmesh_tool_runner.sandbox.model import MIB, Limits, TerminalSize

from .network_policies import insist_on_none

_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# Of the kernel for one of them, and of the launcher for all together.
_MAX_WORD_BYTES: Final = 128 * 1024 - 1
_MAX_WORDS_BYTES: Final = 128 * 1024
_WITH_PACKAGES: Final = (pb.EXECUTION_LANGUAGE_PYTHON, pb.EXECUTION_LANGUAGE_SHELL)
_LEAST_MEMORY: Final = 16 * MIB
_LEAST_PROCESSES: Final = 4


def code_run(request: pb.ExecuteRequest, default: Limits, maximum: Limits) -> CodeRun:
    """Raises MeshError that names every field that is wrong."""
    violations = [
        *_program_violations(request),
        *_word_violations(request.args, request.environment),
        *_limit_violations(request.limits, maximum),
        *_interpreter_violations(request),
    ]
    if violations:
        raise MeshError.invalid_fields(violations)
    insist_on_none("network", request.network)
    terminal = request.terminal
    program = Program(
        translate.LANGUAGES[request.language],
        code=None if request.path else request.code,
        path=request.path or None,
        args=tuple(request.args),
        files={normalize(file.path): file.content for file in request.files},
        stdin=request.stdin,
        keep_stdin_open=request.keep_stdin_open,
        environment=dict(sorted(request.environment.items())),
        limits=translate.limits_of(request.limits, default),
        terminal=TerminalSize(terminal.rows, terminal.columns)
        if request.HasField("terminal")
        else None,
        stateful=request.stateful,
    )
    return CodeRun(
        tenant=current_principal().tenant,
        execution_id=request.execution_id or new_id("exec"),
        program=program,
        conversation_id=request.conversation_id,
        traceparent=current_traceparent(),
        packages=_wish(request.packages),
    )


def _wish(packages: pb.PackageInstallation) -> PackageWish:
    return PackageWish(
        packages.index_url,
        tuple(
            Requirement(each.name, each.version, tuple(each.sha256))
            for each in packages.requirements
        ),
    )


def _program_violations(request: pb.ExecuteRequest) -> Iterator[FieldViolation]:
    if request.code and request.path:
        yield FieldViolation("path", "give either code or path")
    paths = [(f"files[{number}].path", file.path) for number, file in enumerate(request.files)]
    if request.path:
        paths.append(("path", request.path))
    if request.packages.requirements and request.language not in _WITH_PACKAGES:
        yield FieldViolation("packages.requirements", "are for Python and the shell")
    for field, path in paths:
        try:
            plain = normalize(path)
        except UnsafePathError as error:
            yield FieldViolation(field, str(error))
        else:
            if plain == "." or path.startswith("-"):
                yield FieldViolation(field, "is no path of a file")


def _interpreter_violations(request: pb.ExecuteRequest) -> Iterator[FieldViolation]:
    if not request.stateful:
        return
    if request.language != pb.EXECUTION_LANGUAGE_PYTHON:
        yield FieldViolation("stateful", "only Python has an interpreter that keeps its variables")
    if not request.conversation_id:
        yield FieldViolation("stateful", "needs a conversation_id, whose session has the variables")
    for field in ("args", "terminal", "packages"):
        if any(given.name == field for given, _ in request.ListFields()):
            yield FieldViolation(field, "an interpreter that runs already takes none")


def _word_violations(
    args: Sequence[str], environment: Mapping[str, str]
) -> Iterator[FieldViolation]:
    words = [(f"args[{number}]", word) for number, word in enumerate(args)]
    words += [(f'environment["{name}"]', f"{name}={value}") for name, value in environment.items()]
    for field, word in words:
        if "\0" in word:
            yield FieldViolation(field, "holds a character of value 0")
        if len(word.encode()) > _MAX_WORD_BYTES:
            yield FieldViolation(field, f"is longer than {_MAX_WORD_BYTES} bytes")
    for name in environment:
        if not _VARIABLE_NAME.fullmatch(name):
            yield FieldViolation(f'environment["{name}"]', "is no name of a variable")
    for field, texts in (("args", list(args)), ("environment", [dict(environment)])):
        if len(json.dumps(texts)) > _MAX_WORDS_BYTES // 2:
            yield FieldViolation(field, f"together exceed {_MAX_WORDS_BYTES // 2} bytes")


def _limit_violations(wanted: pb.ExecutionLimits, maximum: Limits) -> Iterator[FieldViolation]:
    for name, duration, most in (
        ("wall_time", wanted.wall_time, maximum.wall_seconds),
        ("cpu_time", wanted.cpu_time, maximum.cpu_seconds),
    ):
        given = any(field.name == name for field, _ in wanted.ListFields())
        seconds = duration.seconds + duration.nanos / 1e9
        if given and not 0 < seconds <= most:
            yield FieldViolation(f"limits.{name}", f"must be above 0 and at most {most:g} s")
    for name, least, most in (
        ("memory_bytes", _LEAST_MEMORY, maximum.memory_bytes),
        ("processes", _LEAST_PROCESSES, maximum.processes),
        ("output_bytes", 1, maximum.output_bytes),
        # A workspace has its size from when it is opened.
        ("disk_bytes", maximum.workspace_bytes, maximum.workspace_bytes),
    ):
        value: int = getattr(wanted, name)
        if value and not least <= value <= most:
            bounds = f"from {least} to {most}" if least < most else f"{most}"
            yield FieldViolation(f"limits.{name}", f"must be {bounds} here, or unset")
