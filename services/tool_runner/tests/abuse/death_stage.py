"""A service with hostile programs, made to be killed: `python -m ... KIND BOUND FOLDER TOKEN`.

Prints the launcher's pid when a program runs that ignores every signal and has a daemon. TOKEN is a
word of their command lines.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agentmesh_tool_runner.sandbox.model import WorkspaceKey

from ..sandbox.conftest import make_backend  # noqa: TID252 - the tests are one tree
from .conftest import options_of
from .stage import program


async def main() -> None:
    kind, bound, folder, token = sys.argv[1:]
    backend = make_backend(kind, Path(folder), **options_of(bound))
    await backend.start()
    workspace = await backend.workspace(WorkspaceKey("hostile", "conv"))
    arguments = ["alone", "program_that_ignores_signals", token]
    # The second finds a warm sandbox where there are any.
    (await workspace.execute(program(backend, arguments, {}))).cancel()
    await workspace.execute(program(backend, arguments, {}))
    while not [entry for entry in await workspace.list_files() if entry.path == "alive"]:
        await asyncio.sleep(0.02)
    print(getattr(backend, "launcher_pid", 0), flush=True)  # noqa: T201
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main())
