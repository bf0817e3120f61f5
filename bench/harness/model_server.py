"""A model server that costs next to nothing: real HTTP, the OpenAI chat completions format.

python -m bench.harness.model_server --tokens 40 --delay 0.05 prints its base URL. Every reply has
the same text, or with --varied one of its own, and with --tool-first whoever has a tool is made to
run a program before; a stream is sent as fast as the reader takes it, so
that the reader is what is measured. It runs in a process of its own: mesh and reference read from
the same one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientConnectionResetError, web

MODEL = "bench-model"
_WRITE_BYTES = 16 * 1024


def reply_text(tokens: int) -> str:
    """What the model says: as many words as tokens, each followed by a blank."""
    return "".join(_words(tokens))


def _words(tokens: int) -> list[str]:
    return [f"word{number % 1000} " for number in range(tokens)]


class Prose:
    """Texts that compress about as well as English: made-up words, few often and many seldom."""

    def __init__(self) -> None:
        self._chance = random.Random(20)  # noqa: S311 - the same texts in every run
        self._vocabulary = [
            "".join(self._chance.choices("etaoinshrdlucm", k=self._chance.randint(2, 9))) + " "
            for _ in range(3000)
        ]
        self._weights = [1 / (rank + 3) for rank in range(3000)]

    def words(self, tokens: int) -> list[str]:
        """The next text."""
        return self._chance.choices(self._vocabulary, self._weights, k=tokens)


class Replies:
    """A reply in both forms."""

    def __init__(self, words: list[str], delay: float) -> None:
        self._delay = delay
        tokens = len(words)
        usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
        common = {"id": "bench", "created": 1, "model": MODEL}
        self._whole = {
            **common,
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "".join(words)},
                    "finish_reason": "stop",
                }
            ],
            "usage": usage,
        }
        chunk = {**common, "object": "chat.completion.chunk"}
        events: list[dict[str, Any]] = [
            {**chunk, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
            for word in words
        ]
        events[0]["choices"][0]["delta"]["role"] = "assistant"
        events.append({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._stream = b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events)
        self._usage = b"data: " + json.dumps({**chunk, "choices": [], "usage": usage}).encode()

    async def complete(self, http: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Answers one request."""
        await asyncio.sleep(self._delay)
        if not body.get("stream"):
            return web.json_response(self._whole)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(http)
        for start in range(0, len(self._stream), _WRITE_BYTES):
            await response.write(self._stream[start : start + _WRITE_BYTES])
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(self._usage + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def call_of_a_tool() -> bytes:
    """A stream that calls the first tool of the agent that the measurements use."""
    arguments = json.dumps({"language": "python", "code": "print(1)"})
    call = {
        "index": 0,
        "id": "call_bench",
        "type": "function",
        "function": {"name": "code_executor", "arguments": arguments},
    }
    chunk = {"id": "bench", "created": 1, "model": MODEL, "object": "chat.completion.chunk"}
    events = [
        {
            **chunk,
            "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}],
        },
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    return b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events)


async def serve(tokens: int, delay: float, *, varied: bool, tool_first: bool) -> None:
    """Serves until the process is told to stop."""
    prose = Prose()
    same = Replies(_words(tokens), delay)
    call = call_of_a_tool()

    async def complete(http: web.Request) -> web.StreamResponse:
        body = await http.json()
        if tool_first and body.get("tools") and body["messages"][-1]["role"] != "tool":
            return web.Response(body=call + b"data: [DONE]\n\n", content_type="text/event-stream")
        reply = Replies(prose.words(tokens), delay) if varied else same
        with suppress(ClientConnectionResetError):  # whoever asked was killed
            return await reply.complete(http, body)
        return web.Response()

    application = web.Application(client_max_size=64 << 20)
    application.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


@asynccontextmanager
async def model_server(
    tokens: int, delay_seconds: float = 0.0, *, varied: bool = False, tool_first: bool = False
) -> AsyncIterator[str]:
    """A server in a process of its own; its base URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.harness.model_server"),
        *("--tokens", str(tokens), "--delay", str(delay_seconds)),
        *(["--varied"] if varied else []),
        *(["--tool-first"] if tool_first else []),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


def main() -> None:
    """Serves what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--varied", action="store_true")
    parser.add_argument("--tool-first", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(
        serve(
            arguments.tokens,
            arguments.delay,
            varied=arguments.varied,
            tool_first=arguments.tool_first,
        )
    )


if __name__ == "__main__":
    main()
