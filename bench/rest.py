"""A conversation over REST, against a FastAPI handler that makes the same call to the store.

Ours: GET /conversations/{id} with an API key, through all that the gateway does. Reference: FastAPI
on the same HTTP server (uvicorn with httptools and uvloop), with nothing but the call and the JSON.
Callers hold one connection each.
"""

from __future__ import annotations

import argparse
import os

import uvloop

from bench.harness.callers import take_turns
from bench.harness.fastapi_peer import SECRET_VARIABLE
from bench.harness.http_caller import http_callers
from bench.harness.peer_process import peer_process
from bench.harness.rounds import Rounds, Target, report
from bench.harness.store_and_gateway import Databases, store_and_gateway

TARGET = Target("at least", 1.0)
PEER = "bench.harness.fastapi_peer"


async def measure(rounds: int, calls: int, concurrency: int, databases: Databases) -> None:
    """Takes the rounds and reports them."""
    async with store_and_gateway(databases) as mesh:
        path = f"/conversations/{await mesh.start_conversation()}"
        key = {"authorization": f"Bearer {await mesh.create_key()}"}
        environment = {SECRET_VARIABLE: mesh.secret}
        async with peer_process(PEER, mesh.store.grpc_address, environment=environment) as peer:
            port, pid = peer
            ours_path = f"{path}?without_messages=true"
            with (
                http_callers(mesh.gateway.http_address, ours_path, key, concurrency) as ours,
                http_callers(f"http://127.0.0.1:{port}", path, {}, concurrency) as reference,
            ):
                sides = await take_turns(
                    ours,
                    reference,
                    rounds=rounds,
                    calls=calls,
                    pids={"gateway": mesh.gateway.pid, "fastapi": pid, "store": mesh.store.pid},
                )
    report(
        "rest",
        "requests/s",
        Rounds(sides.rates(sides.ours), sides.rates(sides.reference)),
        reference_name="a FastAPI handler that makes the same call to the store",
        target=TARGET,
        more={
            "latencies_ms": sides.latencies,
            "processor_us_per_call": sides.processor,
            "load": round(os.getloadavg()[0], 1),
        },
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--concurrency", type=int, default=16)
    Databases.add_options(parser)
    options = parser.parse_args()
    databases = Databases.of(options)
    uvloop.run(measure(options.rounds, options.calls, options.concurrency, databases))


if __name__ == "__main__":
    main()
