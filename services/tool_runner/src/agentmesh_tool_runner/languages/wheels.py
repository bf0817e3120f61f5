"""Unpacks wheels within the sandbox, right before the program that needs them starts there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from agentmesh_tool_runner.sandbox.model import INPUT_DIRECTORY, WORKSPACE_DIRECTORY, ExecutionSpec

FOLDER: Final = "/tmp/packages"  # noqa: S108 - inside
# In the program's own process and under its limits: a wheel that is too large ends it as its own
# files would. What a wheel wants to have run is not run.
_UNPACK: Final = f"""
import os, sys, zipfile
count = int(sys.argv[1])
for name in sys.argv[2:2 + count]:
    with zipfile.ZipFile("{INPUT_DIRECTORY}/" + name) as wheel:
        for member in wheel.infolist():
            parts = member.filename.split("/")
            if parts[0].endswith(".data"):
                if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
                    continue
                member.filename = "/".join(parts[2:])
            wheel.extract(member, "{FOLDER}")
program = sys.argv[2 + count:]
try:
    os.execvp(program[0], program)
except OSError as error:
    sys.exit(f"{{program[0]}}: {{error.strerror}}")
"""


def with_wheels(spec: ExecutionSpec, wheels: Mapping[str, bytes], python: str) -> ExecutionSpec:
    """The program with the wheels on its path for imports."""
    if not wheels:
        return spec
    argv = [python, "-I", "-S", "-c", _UNPACK, str(len(wheels)), *wheels, *spec.argv]
    given = spec.environment.get("PYTHONPATH", WORKSPACE_DIRECTORY)
    environment = dict(spec.environment) | {"PYTHONPATH": f"{FOLDER}:{given}"}
    return replace(spec, argv=argv, environment=environment, files={**spec.files, **wheels})
