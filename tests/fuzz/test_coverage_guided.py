"""What atheris finds in the binding of REST requests and in the field rules: nothing."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = 150_000
ROOT = Path(__file__).parents[2]


def test_no_input_that_reaches_new_lines_meets_a_defect(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    seed = secrets.randbelow(2**31) or 1
    options = [f"-atheris_runs={RUNS}", f"-seed={seed}", "-len_control=0", "-max_len=2048"]
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fuzz.coverage_guided",
            *options,
            f"-artifact_prefix={tmp_path}/",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, f"seed {seed}\n{ended.stderr[-6000:]}"
