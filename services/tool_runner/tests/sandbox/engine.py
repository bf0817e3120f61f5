"""The Docker engine of the tests: started by the first that needs it, gone with the run."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil

IMAGE = "agentmesh/sandbox:tests"


@functools.cache
def is_to_be_had() -> bool:
    """True where an engine can be started and its image is there, or can be made.

    To make it takes minutes, so only a strict run does.
    """
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        return False
    from scripts import sandbox_image

    return sandbox_image.archive_path().exists() or os.environ.get("STRICT") == "1"


@functools.cache
def address() -> str:
    """Of the engine, which has the image."""
    from meshkit.testkit.docker_engine import docker_engine

    from scripts import sandbox_image

    archive = sandbox_image.build()
    running = contextlib.ExitStack()
    atexit.register(running.close)
    found = running.enter_context(docker_engine())
    sandbox_image.import_into(found, archive, IMAGE)
    return found
