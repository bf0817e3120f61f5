"""What a service's process asks of its interpreter and its kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

_ASK = """
import gc, os, threading
from meshkit.process import avoid_preemption, settle
kept = [object() for _ in range(10)]
settle()
avoid_preemption()
seen = []
thread = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
print(gc.get_freeze_count() > 1000, gc.get_threshold()[0], os.sched_getscheduler(0), seen[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has these policies")
@pytest.mark.parametrize(("policy", "expected"), [("SCHED_OTHER", 3), ("SCHED_IDLE", 5)])
def test_threads_wait_for_their_turn_and_a_policy_that_was_chosen_stays(
    policy: str, expected: int
) -> None:
    chosen = f"import os; os.sched_setscheduler(0, os.{policy}, os.sched_param(0))"
    done = subprocess.run(
        [sys.executable, "-c", f"{chosen}\n{_ASK}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "10000", str(expected), str(expected)]
