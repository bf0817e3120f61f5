"""What each service asks of gRPC stands in its environment before it imports gRPC."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_FIRST_LOOK = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print("seen:", os.environ.get("GRPC_EXPERIMENTS"))

sys.meta_path.insert(0, Watch())
import {package}.__main__, {package}.server
print("left:", os.environ.get("GRPC_EXPERIMENTS"))
"""


@pytest.mark.parametrize(
    "service", ["agent_runtime", "conversation_store", "gateway", "tool_runner"]
)
def test_the_event_engine_is_off_when_grpc_is_imported(service: str) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_LOOK.format(package=f"agentmesh_{service}")],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    seen, left = done.stdout.splitlines()
    assert seen.startswith("seen: -event_engine_client,-event_engine_listener")
    assert left == "left: None", "what the service starts does not see it"
