"""A real HTTP server that speaks the OpenAI wire format, for tests and benchmarks.

Streams, calls tools, reports usage, counts what it was asked, and fails on demand. In a test:

    async with ModelServer() as server:
        server.reply_with(Reply("Hello world"))
        server.fail_next(Fault(status=429, headers={"Retry-After": "1"}))
        ... server.base_url, server.requests

As a process of its own: `python model_server.py --words 20 --delay 0.05` prints its base URL.
`GET /control/requests` tells how often it was asked and `POST /control/faults` takes a list of
faults as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web


@dataclass(frozen=True)
class ToolCall:
    """A call to make; `arguments` goes out as it stands, malformed or not."""

    name: str
    arguments: str
    call_id: str = ""


@dataclass(frozen=True)
class Reply:
    """What to answer. The text goes out in chunks of one word, or as `chunks` says. `counts` are
    told as the tokens of request and reply, whatever they are."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    finish_reason: str = ""
    chunks: tuple[str, ...] = ()
    usage: bool = True
    counts: tuple[Any, Any] | None = None

    def pieces(self) -> list[str]:
        """The text as it is streamed."""
        if self.chunks:
            return list(self.chunks)
        words = self.text.split(" ")
        return [words[0], *(f" {word}" for word in words[1:])] if self.text else []


Stream = Literal[
    "",
    "stall",
    "drop",
    "end",
    "garbage",
    "error",
    "reset",
    "silent",
    "page",
    "nothing",
    "cut",
    "bytes",
    "pings",
    "linger",
]


@dataclass(frozen=True)
class Fault:
    """A way to fail: an HTTP status, or a stream that stalls, drops, ends early or turns bad.

    "linger" says its last word and keeps the stream alive for ever.

    "reset" and "silent" come before any header, "page" and "nothing" in place of a stream. "cut"
    ends in the middle of a frame, "bytes" are no UTF-8, and "pings" keep the stream alive for ever.
    """

    status: int = 0
    message: str = "scripted fault"
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Stream = ""
    after_chunks: int = 0

    @property
    def breaks(self) -> bool:
        """True if the stream does not get to its last word."""
        return self.stream not in ("", "linger")


Answer = Callable[[dict[str, Any], int], Reply]
"""Called with a request's JSON and its number, from 1."""


class ModelServer:
    """See the module. `delay` is the time to the first chunk, `chunk_delay` that between chunks."""

    def __init__(self, *, delay: float = 0.0, chunk_delay: float = 0.0, port: int = 0) -> None:
        self.delay = delay
        self.chunk_delay = chunk_delay
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.urls: list[str] = []
        self.callers: set[tuple[str, int]] = set()
        self.open_streams = 0
        self.held = 0
        self._gate = asyncio.Event()
        self._gate.set()
        self.gate = asyncio.Event()
        """Requests are answered while it is set; others wait for it."""
        self.gate.set()
        self._port = port
        self._answer: Answer = lambda body, number: Reply(f"reply {number}")
        self._faults: deque[Fault | None] = deque()
        self._runner: web.AppRunner | None = None
        self.base_url = ""

    # How a protocol is spoken; servers of others replace these.
    PATHS: tuple[str, ...] = (
        "/v1/chat/completions",
        "/openai/deployments/{deployment}/chat/completions",
    )
    CONTENT_TYPE = "text/event-stream"
    SUFFIX = "/v1"
    GARBAGE = b"data: {this is no JSON\n\n"
    LAST_FRAME = b"data: [DONE]\n\n"
    BYTES = b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n'
    PING = b": ping\n\n"

    def frames(self, reply: Reply, body: dict[str, Any], number: int) -> list[bytes]:
        """A streamed reply as it goes over the wire, without the last frame."""
        return [_event(chunk) for chunk in _chunks(reply, body, number)]

    def error(self, fault: Fault) -> dict[str, Any]:
        """The body of an answer that is none."""
        return {"error": {"message": fault.message, "type": "scripted", "code": fault.code or None}}

    def error_frame(self, fault: Fault) -> bytes:
        """An error in the middle of a stream."""
        return _event({"error": {"message": fault.message, "code": fault.code or None}})

    def reply_with(self, answer: Reply | Answer | list[Reply]) -> None:
        """Sets the answers: always the same, one after another, or computed."""
        if isinstance(answer, Reply):
            self._answer = lambda body, number: answer
        elif isinstance(answer, list):
            first = len(self.requests)
            self._answer = lambda body, number: answer[min(number - first, len(answer)) - 1]
        else:
            self._answer = answer

    def fail_next(self, *faults: Fault | None) -> None:
        """The next requests fail so, in order; None lets one pass."""
        self._faults.extend(faults)

    def hold(self) -> None:
        """Requests are answered no more until `release`; `held` counts those that wait."""
        self._gate.clear()

    def release(self) -> None:
        """Answers them."""
        self._gate.set()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        for path in self.PATHS:
            app.router.add_post(path, self._complete)
        app.router.add_get("/control/requests", self._tell_requests)
        app.router.add_post("/control/faults", self._take_faults)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{self._port}{self.SUFFIX}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.urls.append(request.path_qs)
        assert request.transport is not None
        self.callers.add(request.transport.get_extra_info("peername"))
        number = len(self.requests)
        fault = self._faults.popleft() if self._faults else None
        self.held += 1
        try:
            await self._gate.wait()
        finally:
            self.held -= 1
        if self.delay:
            await asyncio.sleep(self.delay)
        await self.gate.wait()
        if fault is not None and fault.status:
            return web.json_response(
                self.error(fault), status=fault.status, headers=dict(fault.headers)
            )
        if fault is not None and (answer := await self._without_stream(request, fault)):
            return answer
        reply = self._answer(body, number)
        if not body.get("stream"):
            return web.json_response(_whole(reply, body, number))
        return await self._stream(request, body, reply, fault, number)

    async def _without_stream(self, request: web.Request, fault: Fault) -> web.Response | None:
        assert request.transport is not None
        if fault.stream == "reset":
            request.transport.abort()
        elif fault.stream == "silent":
            await asyncio.sleep(3600)
        elif fault.stream == "page":
            return web.Response(text="<html>Log in first.</html>", content_type="text/html")
        elif fault.stream != "nothing":
            return None
        return web.Response(content_type=self.CONTENT_TYPE)

    async def _stream(
        self,
        request: web.Request,
        body: dict[str, Any],
        reply: Reply,
        fault: Fault | None,
        number: int,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": self.CONTENT_TYPE})
        if fault is not None and fault.stream == "end":
            response.force_close()
        await response.prepare(request)
        self.open_streams += 1
        try:
            for index, frame in enumerate(self.frames(reply, body, number)):
                if fault is not None and fault.breaks and index >= fault.after_chunks:
                    await self._break(request, response, fault, frame)
                    return response
                await response.write(frame)
                if self.chunk_delay:
                    await asyncio.sleep(self.chunk_delay)
            await response.write(self.LAST_FRAME)
            while fault is not None and fault.stream == "linger":
                await response.write(b": ping\n\n")
                await asyncio.sleep(0.02)
            await response.write_eof()
        finally:
            self.open_streams -= 1
        return response

    async def _break(
        self, request: web.Request, response: web.StreamResponse, fault: Fault, frame: bytes
    ) -> None:
        if fault.stream == "stall":
            await asyncio.sleep(3600)
        elif fault.stream == "drop":
            assert request.transport is not None
            request.transport.abort()
        elif fault.stream == "garbage":
            await response.write(self.GARBAGE)
        elif fault.stream == "error":
            await response.write(self.error_frame(fault))
        elif fault.stream == "cut":
            await response.write(frame[: len(frame) // 2])
        elif fault.stream == "bytes":
            await response.write(self.BYTES)
        while fault.stream == "pings":
            await response.write(self.PING)
            await asyncio.sleep(0.01)
        await response.write_eof()

    async def _tell_requests(self, request: web.Request) -> web.Response:
        return web.json_response({"count": len(self.requests), "requests": self.requests})

    async def _take_faults(self, request: web.Request) -> web.Response:
        self.fail_next(*(Fault(**fault) for fault in await request.json()))
        return web.json_response({"waiting": len(self._faults)})


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _usage(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    prompt = sum(len(str(message.get("content") or "").split()) for message in body["messages"])
    said = len(reply.pieces()) + sum(len(call.arguments) // 4 for call in reply.tool_calls)
    thought = len(reply.reasoning.split())
    if reply.counts is not None:
        asked, answered = reply.counts
        return {"prompt_tokens": asked, "completion_tokens": answered}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said + thought,
        "total_tokens": prompt + said + thought,
        "prompt_tokens_details": {"cached_tokens": prompt // 2},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def _call_id(call: ToolCall, number: int, index: int) -> str:
    return call.call_id or f"call_{number}_{index}"


def _finish(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def _whole(reply: Reply, body: dict[str, Any], number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.tool_calls:
        message["tool_calls"] = [
            {
                "id": _call_id(call, number, index),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(reply.tool_calls)
        ]
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(reply)}],
        "usage": _usage(reply, body),
    }


def _chunks(reply: Reply, body: dict[str, Any], number: int) -> list[dict[str, Any]]:
    base = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": body["model"],
    }

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    chunks = [chunk({"role": "assistant", "content": ""})]
    if reply.reasoning:
        chunks += [chunk({"reasoning_content": f"{w} "}) for w in reply.reasoning.split(" ")]
    chunks += [chunk({"content": piece}) for piece in reply.pieces()]
    for index, call in enumerate(reply.tool_calls):
        middle = len(call.arguments) // 2
        head = {"name": call.name, "arguments": call.arguments[:middle]}
        first = {"index": index, "id": _call_id(call, number, index), "type": "function"}
        chunks.append(chunk({"tool_calls": [{**first, "function": head}]}))
        rest = {"index": index, "function": {"arguments": call.arguments[middle:]}}
        chunks.append(chunk({"tool_calls": [rest]}))
    chunks.append(chunk({}, _finish(reply)))
    if reply.usage and (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**base, "choices": [], "usage": _usage(reply, body)})
    return chunks


async def _serve(arguments: argparse.Namespace) -> None:
    text = " ".join(f"word{index}" for index in range(arguments.words))
    server = ModelServer(
        delay=arguments.delay, chunk_delay=arguments.chunk_delay, port=arguments.port
    )
    server.reply_with(Reply(text))
    async with server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--words", type=int, default=20, help="words of every reply")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds to the first chunk")
    parser.add_argument("--chunk-delay", type=float, default=0.0, help="seconds between chunks")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
