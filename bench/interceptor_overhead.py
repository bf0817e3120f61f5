"""What meshkit costs per call: unary calls per second through it, against bare grpc.aio.

Both servers and both clients share this process and its event loop (uvloop). A round measures one,
then the other, for the same number of calls at the same concurrency. meshkit does all that it does
in production: internal token, policy, validation, a client and a server span, rich errors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc as catalog_grpc
from meshkit.channels import MeshChannels
from meshkit.identity import Principal, principal_scope
from meshkit.server import ServiceHost
from meshkit.settings import ServiceSettings

SERVICE = "agentmesh.conversation_store.v1.CatalogService"
TARGET = 0.67  # at most a third of the throughput
CALLER = Principal(subject="bench", tenant="bench", role=1)
REQUEST = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")
RESPONSE = catalog.GetDocumentResponse(
    document=catalog.Document(kind=catalog.DOCUMENT_KIND_AGENT, name="developer", version=1)
)


class Catalog(catalog_grpc.CatalogServiceServicer):
    """Answers at once, so that all that is measured is the way."""

    async def GetDocument(  # noqa: N802  the contract's name
        self, request: catalog.GetDocumentRequest, context: Any
    ) -> catalog.GetDocumentResponse:
        """The same document always."""
        return RESPONSE


def answering() -> Catalog:
    """One of them."""
    return Catalog()  # type: ignore[abstract]  # serves the one method that is called


@asynccontextmanager
async def bare() -> AsyncIterator[Any]:
    """A stub over nothing but grpc.aio."""
    server = grpc.aio.server()
    catalog_grpc.add_CatalogServiceServicer_to_server(answering(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield catalog_grpc.CatalogServiceStub(channel)
    await server.stop(None)


@asynccontextmanager
async def meshed(folder: Path) -> AsyncIterator[Any]:
    """A stub over meshkit on both sides."""
    settings = ServiceSettings(data_dir=folder, drain_seconds=0)
    host = ServiceHost("conversation_store", settings)
    host.add(
        catalog_grpc.add_CatalogServiceServicer_to_server,
        answering(),
        SERVICE,
    )
    await host.start()
    channels = MeshChannels("gateway", settings)
    yield catalog_grpc.CatalogServiceStub(channels.channel(host.grpc_address, "conversation_store"))
    await channels.close()
    await host.stop()


async def calls_per_second(stub: Any, calls: int, concurrency: int) -> float:
    """Unary calls per second."""

    async def caller() -> None:
        for _ in range(calls // concurrency):
            await stub.GetDocument(REQUEST)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return calls / (time.perf_counter() - began)


async def measure(rounds: int, calls: int, concurrency: int) -> dict[str, Any]:
    """Interleaved rounds; medians."""
    theirs: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as folder, principal_scope(CALLER):
        async with bare() as bare_stub, meshed(Path(folder)) as mesh_stub:
            for stub in (bare_stub, mesh_stub):
                await calls_per_second(stub, 500, concurrency)
            for number in range(rounds):
                theirs.append(await calls_per_second(bare_stub, calls, concurrency))
                ours.append(await calls_per_second(mesh_stub, calls, concurrency))
                print(f"round {number + 1}: bare {theirs[-1]:.0f}/s, meshkit {ours[-1]:.0f}/s")
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return {
        "name": "interceptor_overhead",
        "unit": "calls/s",
        "ours": round(statistics.median(ours)),
        "reference": round(statistics.median(theirs)),
        "reference_name": "bare grpc.aio unary",
        "ratio": round(ratio, 3),
        "target": TARGET,
        "holds": ratio >= TARGET,
        "rounds": rounds,
    }


def main() -> None:
    """Prints the rounds, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=1600)
    parser.add_argument("--concurrency", type=int, default=16)
    arguments = parser.parse_args()
    print(json.dumps(uvloop.run(measure(arguments.rounds, arguments.calls, arguments.concurrency))))


if __name__ == "__main__":
    main()
