"""Streams of JSON objects, cut out of the bytes of a model server's answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any

from agentmesh_agent_runtime.turns.failures import ModelFailed, ModelRefused

LONGEST_LINE = 8 * 1024 * 1024
"""Bytes. More than any chunk of a reply; a line without end is given up there."""

END_SECONDS = 0.1
"""How long the end of a stream is waited for behind its last word."""


async def lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The lines of a byte stream, without their ends. Raises ModelRefused if one never ends."""
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        if b"\n" in chunk:
            *whole, rest = bytes(held).split(b"\n")
            held = bytearray(rest)
            for line in whole:
                yield line.rstrip(b"\r")
        if len(held) > LONGEST_LINE:
            raise ModelRefused(f"the model server sent a line of more than {LONGEST_LINE} bytes")
    if held:
        yield bytes(held)


async def events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of a stream of server-sent events, up to `[DONE]` or its end.

    Raises ModelFailed at anything else.
    """
    async for line in lines(chunks):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            await _read_to_the_end(chunks)
            return
        yield json_object(data)


async def _read_to_the_end(chunks: AsyncIterator[bytes]) -> None:
    """A connection can be used again only if its answer was read whole. All has been said, so a
    server that does not end, or fails now, is no matter."""
    with suppress(Exception):
        async with asyncio.timeout(END_SECONDS):
            async for _ in chunks:
                pass


async def objects(chunks: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of a stream that has one in each line. Raises ModelFailed as `events`."""
    async for line in lines(chunks):
        if line.strip():
            yield json_object(line)


def json_object(data: bytes) -> dict[str, Any]:
    """Raises ModelFailed if `data` is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFailed("the model server sent a chunk that is no JSON") from error
    if not isinstance(found, dict):
        raise ModelFailed("the model server sent a chunk that is no object")
    return found
