"""code_analyzer (ruff) and security_scanner (bandit), run inside the sandbox on what is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import Field, field_validator

from agentmesh_tool_runner.sandbox.files.tree import VERSIONS_FOLDER
from agentmesh_tool_runner.sandbox.model import EndReason, ExecutionSpec

from .reply import Failure
from .tool import Arguments, Finished, Result, Tool, ToolContext, ToolReply

_RULES: Final = "A,ASYNC,B,BLE,C4,C90,E,F,N,PIE,PL,RET,RUF,SIM,UP,W"
_MAX_TOLD: Final = 100
_LOST: Final = {
    EndReason.WALL_TIMEOUT: Failure.TIMEOUT,
    EndReason.SANDBOX_LOST: Failure.CRASHED,
}


class ReviewArguments(Arguments):
    """What to look at."""

    paths: list[str] = Field(
        default_factory=lambda: ["."],
        min_length=1,
        max_length=100,
        description="Files and folders of the workspace; all of it if left out.",
    )

    @field_validator("paths")
    @classmethod
    def _relative(cls, paths: list[str]) -> list[str]:
        for path in paths:
            if not path or path.startswith(("/", "-")):
                raise ValueError(f"{path!r} must be a path relative to the workspace")
        return paths


class Finding(Result):
    """A place, what is wrong there, and how much that matters where the program says so."""

    path: str
    line: int
    rule: str
    message: str
    severity: str = ""


class ReviewResult(Result):
    """How many findings there are, and the first of them."""

    findings: int
    first: list[Finding]


class CodeAnalyzer(Tool[ReviewArguments]):
    """Static analysis."""

    name = "code_analyzer"
    description = "Checks Python code of the workspace with ruff; one finding per line."
    safe_to_repeat = True
    arguments = ReviewArguments
    result = ReviewResult

    async def act(self, context: ToolContext, arguments: ReviewArguments) -> ToolReply:
        """Findings are the answer, not an error."""
        command = ["ruff", "check", "--isolated", "--no-cache", "--exit-zero", "--quiet"]
        command += ["--extend-exclude", VERSIONS_FOLDER]
        command += ["--output-format=json", f"--select={_RULES}", "--", *arguments.paths]
        finished = await _run(context, command)
        report = _json_of(finished)
        if not isinstance(report, list):
            return _failed(self.name, finished)
        lines = [_ruff_line(finding) for finding in report]
        return _found(lines, [_ruff_finding(finding) for finding in report[:_MAX_TOLD]])


def _found(lines: Sequence[str], first: Sequence[Finding]) -> ToolReply:
    told = [finding.model_dump() for finding in first]
    return ToolReply.ok("\n".join(lines) or "no findings", findings=len(lines), first=told)


def _ruff_finding(finding: dict[str, Any]) -> Finding:
    return Finding(
        path=str(finding.get("filename", "")).removeprefix("/workspace/"),
        line=(finding.get("location") or {}).get("row") or 0,
        rule=finding.get("code") or "syntax",
        message=str(finding.get("message")),
    )


def _ruff_line(finding: dict[str, Any]) -> str:
    where = finding.get("location") or {}
    path = str(finding.get("filename", "")).removeprefix("/workspace/")
    code = finding.get("code") or "syntax"
    return f"{path}:{where.get('row')}:{where.get('column')}: {code} {finding.get('message')}"


class SecurityScanner(Tool[ReviewArguments]):
    """Search for weaknesses."""

    name = "security_scanner"
    description = "Looks for security weaknesses in Python code of the workspace with bandit."
    safe_to_repeat = True
    arguments = ReviewArguments
    result = ReviewResult

    async def act(self, context: ToolContext, arguments: ReviewArguments) -> ToolReply:
        """Findings are the answer, not an error."""
        command = ["python3", "-I", "-m", "bandit", "--quiet", "--exit-zero", "--recursive"]
        command += ["--exclude", f"./{VERSIONS_FOLDER}"]
        command += ["--format=json", "--", *arguments.paths]
        finished = await _run(context, command)
        report = _json_of(finished)
        if not isinstance(report, dict):
            return _failed(self.name, finished)
        lines = [_bandit_line(finding) for finding in report.get("results", [])]
        lines += [f"{e.get('filename')}: {e.get('reason')}" for e in report.get("errors", [])]
        found = report.get("results", [])[:_MAX_TOLD]
        return _found(lines, [_bandit_finding(finding) for finding in found])


def _bandit_finding(finding: dict[str, Any]) -> Finding:
    return Finding(
        path=str(finding.get("filename", "")).removeprefix("./"),
        line=finding.get("line_number") or 0,
        rule=str(finding.get("test_id")),
        message=str(finding.get("issue_text")),
        severity=str(finding.get("issue_severity")).lower(),
    )


def _bandit_line(finding: dict[str, Any]) -> str:
    path = str(finding.get("filename", "")).removeprefix("./")
    grade = f"{finding.get('issue_severity')}/{finding.get('issue_confidence')}".lower()
    text = finding.get("issue_text")
    return f"{path}:{finding.get('line_number')}: {finding.get('test_id')} {grade} {text}"


async def _run(context: ToolContext, command: Sequence[str]) -> Finished:
    return await context.execute(ExecutionSpec(command, limits=context.limits))


def _json_of(finished: Finished) -> Any:
    """The report; None if the program did not write one."""
    if not finished.outcome.succeeded:
        return None
    try:
        return json.loads(finished.stdout)
    except ValueError:
        return None


def _failed(tool: str, finished: Finished) -> ToolReply:
    last = (finished.stderr.strip() or finished.stdout.strip())[-2000:]
    reason = finished.outcome.reason
    reply = ToolReply.error(f"{tool} could not run ({reason.value}): {last}")
    return replace(reply, failure=_LOST.get(reason))
