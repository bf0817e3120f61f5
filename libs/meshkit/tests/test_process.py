"""What a service's process asks of its interpreter and its kernel."""

from __future__ import annotations

import os
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


_CALL = """
import os
from pathlib import Path
{before}
import asyncio
import grpc

async def echo(request, context):
    return request

def wake_ups():
    total = 0
    for thread in Path("/proc/self/task").iterdir():
        if thread.joinpath("comm").read_text().strip() == "event_engine":
            status = thread.joinpath("status").read_text()
            total += int(status.split("\\nvoluntary_ctxt_switches:")[1].split()[0])
    return total

async def main():
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a", {{"B": handler}}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{{port}}") as channel:
        method = channel.unary_unary("/a/B")
        await method(b"")
        before = wake_ups()
        for _ in range(300):
            await method(b"")
        print(wake_ups() - before)
    await server.stop(None)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize(
    ("before", "by_default"),
    [
        ("", True),
        ("import meshkit", False),
        ('os.environ["GRPC_EXPERIMENTS"] = "event_engine_client"; import meshkit', True),
    ],
)
def test_calls_pass_no_threads_of_the_event_engine(before: str, by_default: bool) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    done = subprocess.run(
        [sys.executable, "-c", _CALL.format(before=before)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert (int(done.stdout) > 300) is by_default


_GARBAGE = """
import asyncio, sys, tempfile
from pathlib import Path
import meshkit
import grpc
from meshkit.testkit import make_tls

async def main():
    files = make_tls(Path(tempfile.mkdtemp()))
    pair = (files.tls_key_file.read_bytes(), files.tls_cert_file.read_bytes())
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\\r\\n\\r\\n")
    await reader.read()
    writer.close()
    await server.stop(None)

asyncio.run(main())
"""


@pytest.mark.parametrize(("chosen", "silent"), [(None, True), ("info", False)])
def test_strangers_write_nothing_to_the_log_by_bytes_that_are_no_tls(
    chosen: str | None, silent: bool
) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "GRPC_VERBOSITY"}
    if chosen is not None:
        environment["GRPC_VERBOSITY"] = chosen
    done = subprocess.run(
        [sys.executable, "-c", _GARBAGE],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert (done.stderr == "") is silent, done.stderr
