"""What holds for every test of the repository.

Strict runs: with STRICT=1 a skipped test is a failure, unless its reason is on the list of
things that no machine of this kind can run (tests/cannot_run.toml).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Generator
from pathlib import Path

import hypothesis
import meshkit  # noqa: F401  asks gRPC for what the services ask of it, before a test imports it
import pytest

# A machine may be busy: how long an example takes says nothing about what is tested.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

pytest_plugins = ["tests.support.database_fixtures"]

STRICT = os.environ.get("STRICT") == "1"
LIST = Path(__file__).parent / "tests" / "cannot_run.toml"
CANNOT_RUN: dict[str, str] = tomllib.loads(LIST.read_text())["tests"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure that repeats the reason."""
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        name = item.nodeid.split("[")[0]
        if name not in CANNOT_RUN:
            report.outcome = "failed"
            report.longrepr = f"skipped in a strict run: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts what can never run here."""
    if STRICT:
        terminalreporter.write_line(f"{len(CANNOT_RUN)} tests cannot run on this kind of machine")
        for name, reason in CANNOT_RUN.items():
            terminalreporter.write_line(f"  {name}: {reason}")
