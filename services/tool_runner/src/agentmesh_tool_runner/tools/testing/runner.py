"""The tool: what to run, and what came of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any, Final

from pydantic import Field, field_validator

from agentmesh_tool_runner.sandbox.model import (
    INPUT_DIRECTORY,
    EndReason,
    ExecutionSpec,
    Limits,
    Stream,
)
from agentmesh_tool_runner.tools.reply import Failure
from agentmesh_tool_runner.tools.tool import (
    Arguments,
    Finished,
    Result,
    Tool,
    ToolContext,
    ToolReply,
)

_INSIDE: Final = ("run_tests.py", "agentmesh_report.py")
_TESTS_RAN: Final = (0, 1)
_NO_TESTS: Final = 5
_MAX_TESTS: Final = 300
_MAX_MESSAGE: Final = 1500
_MAX_FAILURES_SHOWN: Final = 10
_OUTCOMES: Final = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
_BAD: Final = ("failed", "error")
_LOST: Final = {
    EndReason.WALL_TIMEOUT: Failure.TIMEOUT,
    EndReason.CPU_TIMEOUT: Failure.TIMEOUT,
    EndReason.SANDBOX_LOST: Failure.CRASHED,
}


class TestArguments(Arguments):
    """Which tests."""

    __test__ = False

    paths: list[str] = Field(
        default_factory=list,
        max_length=100,
        description="Files, folders or ids such as tests/test_a.py::test_b; all if left out.",
    )
    keyword: str | None = Field(
        default=None, min_length=1, max_length=500, description="As pytest takes it after -k."
    )
    stop_after: int | None = Field(default=None, ge=1, description="So many failures.")
    timeout_seconds: float | None = Field(default=None, gt=0, le=3600)

    @field_validator("paths")
    @classmethod
    def _relative(cls, paths: list[str]) -> list[str]:
        for path in paths:
            if not path or path.startswith(("/", "-")):
                raise ValueError(f"{path!r} must be a path relative to the workspace")
        return paths


class TestTotals(Result):
    """How many tests came to which end; `uncollected` files could not even be imported."""

    __test__ = False

    passed: int
    failed: int
    error: int
    skipped: int
    xfailed: int
    xpassed: int
    not_run: int
    uncollected: int


class TestOutcome(Result):
    """One test."""

    __test__ = False

    id: str
    outcome: str
    seconds: float
    message: str = ""


class TestResult(Result):
    """What came of all. `doubts` says why the results are not to be believed, if they are not."""

    __test__ = False

    success: bool
    exit_code: int
    totals: TestTotals
    tests: list[TestOutcome]
    tests_left_out: int
    doubts: list[str]
    deciding: list[str] = Field(description="Hooks of the code under test that change outcomes.")


class TestRunner(Tool[TestArguments]):
    """Runs tests."""

    __test__ = False

    name = "test_runner"
    description = (
        "Runs the tests of the workspace with pytest and answers with the outcome, time and "
        "failure message of each test. Failing tests are a result and not an error of this tool."
    )
    safe_to_repeat = False
    arguments = TestArguments
    result = TestResult

    async def act(self, context: ToolContext, arguments: TestArguments) -> ToolReply:
        """Tests that fail are the answer, not an error."""
        spec = ExecutionSpec(
            [context.python, "-I", f"{INPUT_DIRECTORY}/run_tests.py", *_command(arguments)],
            files={name: files(__package__).joinpath(name).read_bytes() for name in _INSIDE},
            limits=_limits(context.limits, arguments.timeout_seconds),
        )
        finished = await context.execute(spec, live=True, shown=(Stream.STDOUT,))
        report = _report_of(finished)
        if report is None:
            return _lost(finished, spec.limits)
        return _reply(report, finished)


def _command(arguments: TestArguments) -> list[str]:
    command = ["-q", "-p", "no:cacheprovider", "--color=no"]
    if arguments.keyword is not None:
        command += ["-k", arguments.keyword]
    if arguments.stop_after is not None:
        command.append(f"--maxfail={arguments.stop_after}")
    return [*command, "--", *arguments.paths]


def _limits(limits: Limits, seconds: float | None) -> Limits:
    if seconds is None:
        return limits
    return replace(limits, wall_seconds=min(limits.wall_seconds, seconds))


def _report_of(finished: Finished) -> Mapping[str, Any] | None:
    if not finished.outcome.succeeded:
        return None
    try:
        report = json.loads(finished.stderr)
    except ValueError:
        return None
    return report if isinstance(report, dict) else None


def _lost(finished: Finished, limits: Limits) -> ToolReply:
    reason = finished.outcome.reason
    text = f"the tests did not come to their end ({reason.value})"
    if reason is EndReason.WALL_TIMEOUT:
        text += f": they took longer than {limits.wall_seconds:g} s"
    text = "\n".join(part for part in (text, finished.stdout[-4000:].strip()) if part)
    reply = ToolReply.error(text, reason=reason.value)
    cpu = finished.outcome.usage.cpu_seconds
    return replace(reply, failure=_LOST.get(reason), cpu_seconds=cpu)


def _reply(report: Mapping[str, Any], finished: Finished) -> ToolReply:
    code, tests = report["exit_code"], report["tests"]
    uncollected, doubts = report["uncollected"], report["doubts"]
    totals = dict.fromkeys(_OUTCOMES, 0) | Counter(test["outcome"] for test in tests)
    totals["not_run"] = max(0, report["collected"] - len(tests))
    totals["uncollected"] = len(uncollected)
    told = sorted(tests, key=lambda test: test["outcome"] not in _BAD)[:_MAX_TESTS]
    detail = {
        "success": code == 0 and not doubts,
        "exit_code": code,
        "totals": totals,
        "tests": [_short(test) for test in told],
        "tests_left_out": len(tests) - len(told),
        "doubts": doubts,
        "deciding": report["deciding"],
    }
    text = _text(report, totals)
    ran = code in _TESTS_RAN or tests or uncollected
    if not ran:
        why = "there are no tests" if code == _NO_TESTS else f"pytest ended with exit code {code}"
        text = "\n".join([why, *(f"! {doubt}" for doubt in doubts), finished.stdout[-4000:]])
    reply = ToolReply.ok(text.strip(), **detail) if ran else ToolReply.error(text.strip(), **detail)
    return replace(reply, cpu_seconds=finished.outcome.usage.cpu_seconds)


def _short(test: Mapping[str, Any]) -> dict[str, Any]:
    return {**test, "message": test.get("message", "")[-_MAX_MESSAGE:]}


def _text(report: Mapping[str, Any], totals: Mapping[str, int]) -> str:
    counts = ", ".join(f"{number} {what}" for what, number in totals.items() if number)
    lines = [counts or "no tests"]
    lines += [f"! do not trust this: {doubt}" for doubt in report["doubts"]]
    lines += [f"! outcomes are decided by {hook}" for hook in report["deciding"]]
    bad: Sequence[Mapping[str, Any]] = [
        *({**each, "outcome": "uncollected"} for each in report["uncollected"]),
        *(test for test in report["tests"] if test["outcome"] in _BAD),
    ]
    for test in bad[:_MAX_FAILURES_SHOWN]:
        lines += ["", f"{test['outcome']}: {test['id']}", test.get("message", "")[-_MAX_MESSAGE:]]
    if len(bad) > _MAX_FAILURES_SHOWN:
        lines += ["", f"… and {len(bad) - _MAX_FAILURES_SHOWN} more"]
    return "\n".join(lines)
