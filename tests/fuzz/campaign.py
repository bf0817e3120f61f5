"""A fuzz run: so many requests to both edges of a running mesh."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import grpc
from agentmesh_gateway.public_api import PUBLIC_SERVICES
from agentmesh_gateway.rest.routes import routes_of

from tests.fuzz import grpc_requests, http_requests
from tests.fuzz.boundaries import Known
from tests.fuzz.findings import Findings
from tests.fuzz.grpc_requests import GrpcSender
from tests.fuzz.http_sender import HttpSender

METHODS = [method for service in PUBLIC_SERVICES for method in service.methods]
ROUTES = routes_of(PUBLIC_SERVICES)
_CHANNELS = 8
_CALLS_AT_ONCE = 64
_CONNECTIONS = 16


async def run(
    grpc_address: str, rest_url: str, known: Known, *, seed: int, over_grpc: int, over_http: int
) -> Findings:
    """Sends so many requests over each edge, side by side; what came of them."""
    findings = Findings(seed)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    channels = [grpc.aio.insecure_channel(grpc_address, options) for _ in range(_CHANNELS)]
    calls = GrpcSender(channels, findings)

    async def call(number: int) -> None:
        await calls.send(number, grpc_requests.make(seed, number, METHODS, known))

    url = urlsplit(rest_url)
    connections = [
        HttpSender(url.hostname or "", url.port or 0, findings) for _ in range(_CONNECTIONS)
    ]

    def asking(connection: HttpSender) -> Callable[[int], Awaitable[None]]:
        async def ask(number: int) -> None:
            await connection.send(number, http_requests.make(seed, number, ROUTES, known))

        return ask

    call_numbers, ask_numbers = iter(range(over_grpc)), iter(range(over_http))
    callers = [_work(call, call_numbers) for _ in range(_CALLS_AT_ONCE)]
    askers = [_work(asking(connection), ask_numbers) for connection in connections]
    try:
        await asyncio.gather(*itertools.chain(callers, askers))
    finally:
        for connection in connections:
            await connection.close()
        for channel in channels:
            await channel.close()
    return findings


async def _work(send: Callable[[int], Awaitable[None]], numbers: Iterator[int]) -> None:
    for number in numbers:
        await send(number)
