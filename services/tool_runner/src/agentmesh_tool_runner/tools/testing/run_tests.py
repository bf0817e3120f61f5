"""Runs pytest and writes down what it tells, in a process of its own that no test can reach.

Runs in the sandbox. Standard output is pytest's, within a bound; standard error is the report, as
JSON. Code under test shares a process with pytest and can tell what it likes; what does not agree
with itself is told as doubts.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

# As `python -m pytest`, with the plugin from here and not from the workspace.
_PYTEST: Final = """
import sys
here, descriptor, *arguments = sys.argv[1:]
sys.path.insert(0, here)
import agentmesh_report
sys.path.remove(here)
agentmesh_report.tell_over(int(descriptor))
import pytest
sys.exit(pytest.main(arguments, plugins=[agentmesh_report]))
"""
_PR_SET_DUMPABLE: Final = 4
_MAX_SHOWN: Final = 256 * 1024
_MAX_REPORT: Final = 8 * 1024 * 1024
_MAX_DOUBTS: Final = 20
_GRACE_SECONDS: Final = 0.2
_BAD: Final = ("failed", "error")


def main() -> None:
    """The arguments are those of pytest."""
    # Nobody looks into this process or writes to its descriptors, whatever runs as the same user.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    reading, writing = os.pipe()
    here = str(Path(__file__).resolve().parent)
    child = subprocess.Popen(  # noqa: S603  # in a sandbox, which is for what nobody trusts
        [sys.executable, "-c", _PYTEST, here, str(writing), *sys.argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[writing],
    )
    os.close(writing)
    told = _follow(child, reading)
    sys.stderr.write(json.dumps(digest(told.split(b"\n"), child.returncode)))


def _follow(child: subprocess.Popen[bytes], reading: int) -> bytes:
    """Passes on what is shown, returns what is told."""
    told = bytearray()
    shown = left_out = 0
    with selectors.DefaultSelector() as selector:
        if child.stdout is not None:
            selector.register(child.stdout.fileno(), selectors.EVENT_READ)
        selector.register(reading, selectors.EVENT_READ)
        ended = False
        while selector.get_map():
            # What is left behind may hold the pipes open when pytest has ended.
            ready = selector.select(_GRACE_SECONDS)
            if not ready and ended:
                break
            ended = child.poll() is not None
            for key, _ in ready:
                data = os.read(key.fd, 64 * 1024)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == reading:
                    told += data[: max(0, _MAX_REPORT - len(told))]
                else:
                    kept = data[: max(0, _MAX_SHOWN - shown)]
                    shown, left_out = shown + len(kept), left_out + len(data) - len(kept)
                    sys.stdout.buffer.write(kept)
                    sys.stdout.buffer.flush()
    child.wait()
    if left_out:
        sys.stdout.buffer.write(f"\n… {left_out} bytes left out …\n".encode())
    return bytes(told)


def digest(lines: Iterable[bytes], exit_code: int) -> dict[str, Any]:
    """The report: each test once, and what does not agree with the rest."""
    told = Told()
    for line in lines:
        if line:
            told.take(line)
    return told.report(exit_code)


@dataclass
class Told:
    """What was told up to now."""

    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    phases: set[tuple[str, str]] = field(default_factory=set)
    uncollected: list[dict[str, str]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    collected: int = 0
    finished: int | None = None
    deciding: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def take(self, line: bytes) -> None:
        """A line of the plugin, or of somebody who pretends to be it."""
        try:
            told = json.loads(line)
            if self.finished is not None:
                self.doubts.append("something was told after the end")
            else:
                self._take(told["kind"], told)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.doubts.append("something was told that pytest does not tell")

    def _take(self, kind: str, told: dict[str, Any]) -> None:
        if kind == "collected":
            if self.ids:
                self.doubts.append("tests were collected twice")
            self.ids, self.collected = set(map(str, told["ids"])), int(told["count"])
        elif kind == "uncollected":
            self.uncollected.append({"id": str(told["id"]), "message": str(told["message"])})
        elif kind == "phase":
            self._take_phase(str(told["id"]), str(told["when"]), told)
        elif kind == "finished":
            self.finished = int(told["status"])
            self.deciding = list(map(str, told["deciding"]))
            if not told["present"]:
                self.doubts.append("the plugin that tells was taken out")
        else:
            raise ValueError(kind)

    def _take_phase(self, name: str, when: str, told: dict[str, Any]) -> None:
        if (name, when) in self.phases:
            self.doubts.append(f"{name}: {when} was told twice")
            return
        self.phases.add((name, when))
        test = self.tests.setdefault(name, {"id": name, "outcome": "", "seconds": 0.0})
        test["seconds"] = round(test["seconds"] + float(told["seconds"]), 6)
        outcome = _outcome(when, str(told["outcome"]), bool(told["expected_failure"]))
        if outcome and test["outcome"] not in _BAD:
            test["outcome"] = outcome
        if told["message"]:
            test["message"] = str(told["message"])

    def report(self, exit_code: int) -> dict[str, Any]:
        """Of all that was told."""
        for name, test in self.tests.items():
            if not test["outcome"]:
                test.update(outcome="error", message="it did not come to its end")
            if self.ids and len(self.ids) == self.collected and name not in self.ids:
                self.doubts.append(f"{name} was told of and never collected")
        self._compare(exit_code)
        return {
            "exit_code": exit_code,
            "collected": self.collected,
            "tests": list(self.tests.values()),
            "uncollected": self.uncollected,
            "deciding": self.deciding,
            "doubts": list(dict.fromkeys(self.doubts))[:_MAX_DOUBTS],
        }

    def _compare(self, exit_code: int) -> None:
        """What the exit code and the results say of each other."""
        bad = self.uncollected or any(test["outcome"] in _BAD for test in self.tests.values())
        if self.finished is None:
            self.doubts.append(f"pytest ended with exit code {exit_code} before it said so")
        elif self.finished != exit_code:
            said = f"pytest said that its exit code is {self.finished}"
            self.doubts.append(f"{said}, and it was {exit_code}")
        if exit_code == 0 and bad:
            self.doubts.append("the exit code is 0 although tests failed")
        if exit_code == 0 and len(self.tests) < self.collected:
            self.doubts.append("the exit code is 0 although not all tests were told of")
        if exit_code == 1 and not bad:
            self.doubts.append("the exit code is 1 although no test failed")


def _outcome(when: str, outcome: str, expected_failure: bool) -> str:
    """What the phase makes of the test; "" for nothing."""
    if outcome == "failed":
        return "failed" if when == "call" else "error"
    if outcome == "skipped":
        return "xfailed" if expected_failure else "skipped"
    if when != "call":
        return ""
    return "xpassed" if expected_failure else "passed"


if __name__ == "__main__":
    main()
