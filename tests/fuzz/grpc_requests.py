"""Hostile requests over gRPC, as bytes that no stub would send."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from tests.fuzz.boundaries import TEXTS, Known, known_for
from tests.fuzz.findings import Findings, random_of
from tests.fuzz.wire import hostile_bytes

EDGE = "grpc"
_HANG_SECONDS = 60.0
_STREAM_MESSAGES = 3  # that are read before a stream is left
_QUIET_SECONDS = 0.05
# What grpc.aio makes on the client's side of a write to a call that the server has refused already.
_TOO_LATE = "Internal error from Core"
_CODES = grpc.StatusCode
ACCEPTED = {
    _CODES.OK,
    _CODES.INVALID_ARGUMENT,
    _CODES.NOT_FOUND,
    _CODES.ALREADY_EXISTS,
    _CODES.FAILED_PRECONDITION,
    _CODES.ABORTED,
    _CODES.OUT_OF_RANGE,
    _CODES.RESOURCE_EXHAUSTED,
    _CODES.UNAUTHENTICATED,
    _CODES.PERMISSION_DENIED,
    _CODES.UNIMPLEMENTED,
}


@dataclass(frozen=True)
class GrpcRequest:
    """One call. Several messages only where the method takes a stream."""

    method: MethodDescriptor
    messages: list[bytes]
    metadata: tuple[tuple[str, str | bytes], ...]
    compression: grpc.Compression

    @property
    def path(self) -> str:
        """As in HTTP/2."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"


def make(seed: int, number: int, methods: list[MethodDescriptor], known: Known) -> GrpcRequest:
    """Request `number` of a run."""
    random = random_of(seed, EDGE, number)
    method = methods[number % len(methods)]
    known = known_for(random, method.name, known)
    count = random.choice((0, 1, 1, 2, 4)) if method.client_streaming else 1
    messages = [hostile_bytes(random, method.input_type, known) for _ in range(count)]
    gzip = random.random() < 0.02
    compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
    if gzip and messages and random.random() < 0.04:  # 24 MiB that travel as 24 KiB
        messages[0] = b"\x0a" + b"\x80\x80\x80\x0c" + b"a" * (24 * 1024 * 1024)
    return GrpcRequest(method, messages, _metadata(random), compression)


def _metadata(random: Random) -> tuple[tuple[str, str | bytes], ...]:
    if random.random() < 0.9:
        return ()
    printable = "".join(map(chr, random.choices(range(0x20, 0x7F), k=random.randrange(60))))
    some: list[tuple[str, str | bytes]] = [
        ("authorization", random.choice(("Bearer", "Bearer x", "basic eDp4", "Bearer amk_x.y"))),
        ("x-api-key", printable.strip() or "x"),
        ("x-agentmesh-internal", printable.strip() or "x"),
        ("x-agentmesh-run-capability", "eyJhbGciOiJub25lIn0.e30."),
        ("x-agentmesh-bin", random.randbytes(random.randrange(200))),
        ("traceparent", random.choice(("00-0-0-0", "zz", "00-" + "f" * 32 + "-" + "0" * 16))),
        ("tracestate", "a=" + "b" * random.choice((1, 300, 3000))),
        ("grpc-tags-bin", random.randbytes(20)),
        ("idempotency-key", random.choice([t for t in TEXTS if t.isascii() and t.isprintable()])),
        ("x-" + "y" * random.choice((1, 200)), "z" * random.choice((0, 1, 2000))),
    ]
    return tuple(random.choices(some, k=random.randrange(1, 4)))


class GrpcSender:
    """Sends requests and judges the answers."""

    def __init__(self, channels: list[grpc.aio.Channel], findings: Findings) -> None:
        self._channels = channels
        self._findings = findings
        self._calls: dict[tuple[int, str], Any] = {}

    async def send(self, number: int, request: GrpcRequest) -> None:
        """One request; returns when it is answered."""
        name = request.path
        try:
            async with asyncio.timeout(_HANG_SECONDS):
                code = await self._send(number, request)
        except TimeoutError:
            self._findings.blame(EDGE, number, f"{name} hangs", request)
            code = "HANG"
        self._findings.note(name, code)

    async def _send(self, number: int, request: GrpcRequest) -> str:
        method, name = request.method, request.path
        options = {"metadata": request.metadata, "compression": request.compression}
        call = self._call(number, method, name)
        payload: Any = _each(request.messages) if method.client_streaming else request.messages[0]
        running = call(payload, **options)
        try:
            if method.server_streaming:
                await _read_some(running)
            else:
                await running
        except grpc.aio.AioRpcError as error:
            if method.client_streaming and error.details() == _TOO_LATE:
                return "closed"
            self._judge(number, request, error)
            return error.code().name
        return "OK"

    def _call(self, number: int, method: MethodDescriptor, name: str) -> Any:
        place = number % len(self._channels)
        call = self._calls.get((place, name))
        if call is None:
            channel = self._channels[place]
            kind = ("stream" if method.client_streaming else "unary") + (
                "_stream" if method.server_streaming else "_unary"
            )
            call = self._calls[place, name] = getattr(channel, kind)(name)
        return call

    def _judge(self, number: int, request: GrpcRequest, error: grpc.aio.AioRpcError) -> None:
        name = request.path
        if error.code() not in ACCEPTED:
            what = f"{name} answers {error.code().name}: {error.details()}"
            self._findings.blame(EDGE, number, what, request)
            return
        problem = _lacks(error)
        if problem:
            what = f"{name} answers {error.code().name} {problem}: {error.details()}"
            self._findings.blame(EDGE, number, what, request)


def _lacks(error: grpc.aio.AioRpcError) -> str:
    """What an error should have told and did not."""
    raw = (error.trailing_metadata() or {}).get("grpc-status-details-bin")
    if not isinstance(raw, bytes):
        # The transport refuses what is too large before any of our code sees it.
        return "" if error.code() is _CODES.RESOURCE_EXHAUSTED else "without a rich status"
    status = Status.FromString(raw)
    info, bad_request = ErrorInfo(), BadRequest()
    if not status.details or not status.details[0].Unpack(info) or not info.reason:
        return "without an ErrorInfo"
    if "Traceback" in status.message:
        return "with a traceback"
    if error.code() is not _CODES.INVALID_ARGUMENT or info.reason == "MALFORMED_BODY":
        return ""
    named = any(detail.Unpack(bad_request) for detail in status.details)
    return "" if named and bad_request.field_violations else "without field violations"


async def _each(messages: list[bytes]) -> Any:
    for message in messages:
        yield message


async def _read_some(running: Any) -> None:
    """The first messages of a stream; then it is left, as one that has no end must be.

    Whatever is accepted has something to say at once, so the first one is waited for.
    """
    read = await running.read()
    try:
        async with asyncio.timeout(_QUIET_SECONDS):
            for _ in range(_STREAM_MESSAGES):
                if read is grpc.aio.EOF:
                    return
                read = await running.read()
    except TimeoutError:
        pass
    running.cancel()
