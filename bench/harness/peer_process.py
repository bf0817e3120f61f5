"""A peer of a measurement in a process of its own, with its one line that says where it listens."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager


@asynccontextmanager
async def peer_process(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[int, int]]:
    """The port and the process id of `python -m module`, which prints its port when it serves."""
    # A session of its own, as the mesh's processes have: the kernel shares time between sessions.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line.strip():
        raise RuntimeError(f"{module} did not start")
    try:
        yield int(line), process.pid
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
