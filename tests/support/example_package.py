"""The package of examples/extension, installed as an installer leaves it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "extension"
NAME = "agentmesh-example"
_BUILD = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"


def install_example(target: Path) -> Path:
    """Builds the package and unpacks it into `target`, which belongs on a path of modules."""
    target.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", _BUILD, str(target)]
    subprocess.run(command, cwd=EXAMPLE, check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(target)
    wheel.unlink()
    return target
