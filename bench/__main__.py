"""Runs measurements: python -m bench [NAME…] [-- OPTIONS]; all of them without a name.

Each runs in a process of its own. Status 1 if one fails or misses its target.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every measurement: the modules of this package."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__"))


def run(name: str, options: list[str]) -> bool:
    """Runs one and shows its output as it comes; True if its target holds."""
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", f"bench.{name}", *options]
    with subprocess.Popen(  # noqa: S603  # modules of this package
        command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True
    ) as process:
        last = ""
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line if line.strip() else last
    return process.returncode == 0 and _holds(last)


def _holds(line: str) -> bool:
    try:
        return bool(json.loads(line)["holds"])
    except (ValueError, KeyError, TypeError):
        return False


def main() -> int:
    """Runs what the command line names."""
    words = sys.argv[1:]
    options: list[str] = []
    if "--" in words:
        at = words.index("--")
        words, options = words[:at], words[at + 1 :]
    unknown = sorted(set(words) - set(names()))
    if unknown:
        print(f"no measurement {', '.join(unknown)}; there are {', '.join(names())}")
        return 2
    chosen = words or names()
    missed = [name for name in chosen if not run(name, options)]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
