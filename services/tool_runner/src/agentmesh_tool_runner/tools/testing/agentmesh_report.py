"""A plugin of pytest that tells what becomes of each test, line by line, over a descriptor.

Runs in the sandbox, in the process of the code under test.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_MAX_WORDS = 4000
_MAX_TOLD = 10_000
# Hooks by which code under test can change what becomes of a test.
_DECIDING = (
    "pytest_collection_modifyitems",
    "pytest_pyfunc_call",
    "pytest_report_teststatus",
    "pytest_runtest_call",
    "pytest_runtest_logreport",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_sessionfinish",
)

_descriptor = -1


def tell_over(descriptor: int) -> None:
    """Before pytest starts; programs that tests start do not get it."""
    global _descriptor  # pytest knows a plugin as a module
    _descriptor = descriptor
    os.set_inheritable(descriptor, False)


def _tell(**line: Any) -> None:
    data = json.dumps(line).encode() + b"\n"
    while data:
        data = data[os.write(_descriptor, data) :]


def _words(report: Any) -> str:
    text: str = getattr(report, "longreprtext", "") or ""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        text = str(report.longrepr[2])
    return text[-_MAX_WORDS:]


def pytest_collectreport(report: Any) -> None:
    """What cannot be imported."""
    if report.failed:
        _tell(kind="uncollected", id=report.nodeid, message=_words(report))


def pytest_collection_finish(session: Any) -> None:
    """What is to run."""
    ids = [item.nodeid for item in session.items]
    _tell(kind="collected", ids=ids[:_MAX_TOLD], count=len(ids))


def pytest_runtest_logreport(report: Any) -> None:
    """A phase of a test: setup, call or teardown."""
    _tell(
        kind="phase",
        id=report.nodeid,
        when=report.when,
        outcome=report.outcome,
        seconds=report.duration,
        expected_failure=hasattr(report, "wasxfail"),
        message="" if report.passed else _words(report),
    )


def pytest_sessionfinish(session: Any, exitstatus: int) -> None:
    """The end."""
    manager = session.config.pluginmanager
    deciding = set()
    for name in _DECIDING:
        for found in getattr(session.config.hook, name).get_hookimpls():
            file = Path(getattr(found.plugin, "__file__", None) or "/")
            if file.is_relative_to(Path.cwd()):
                deciding.add(f"{file.relative_to(Path.cwd())}: {name}")
    present = manager.hasplugin(__name__)
    _tell(kind="finished", status=int(exitstatus), deciding=sorted(deciding), present=present)
