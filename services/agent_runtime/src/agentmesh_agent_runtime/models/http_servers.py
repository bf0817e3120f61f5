"""Servers that are asked with a JSON document over HTTP and answer with a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from agentmesh_agent_runtime.models.endpoints import Endpoint
from agentmesh_agent_runtime.models.wire import json_object
from agentmesh_agent_runtime.turns.failures import ModelFailed, TurnFailure

_LONGEST_ERROR = 64 * 1024
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)


class HttpServers:
    """The connections to all servers of a protocol."""

    def __init__(self) -> None:
        self._client: httpx2.AsyncClient | None = None

    async def close(self) -> None:
        """Closes all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @asynccontextmanager
    async def answer(
        self, url: str, body: Mapping[str, Any], headers: Mapping[str, str], endpoint: Endpoint
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a successful answer, as they come.

        Raises ModelFailed, ModelRefused, ModelCredentialsRefused, then and while they are read.
        """
        if self._client is None:
            self._client = httpx2.AsyncClient(limits=_LIMITS)
        timeout = httpx2.Timeout(endpoint.reply_timeout, connect=endpoint.connect_timeout)
        try:
            async with self._client.stream(
                "POST", url, json=body, headers=headers, timeout=timeout
            ) as response:
                if not response.is_success:
                    raise await _refusal(response, endpoint)
                yield response.aiter_bytes()
        except httpx2.TimeoutException as error:
            raise endpoint.failures.timeout() from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise endpoint.failures.connection(error) from error


async def _refusal(response: httpx2.Response, endpoint: Endpoint) -> TurnFailure:
    """What the body of an error says: `{"error": {"type", "message"}}` or `{"error": text}`."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) >= _LONGEST_ERROR:
            break
    said, code = body.decode(errors="replace"), None
    try:
        error = json_object(bytes(body)).get("error")
    except ModelFailed:
        error = None
    if isinstance(error, dict):
        said, code = str(error.get("message") or said), str(error.get("type"))
    elif error:
        said = str(error)
    return endpoint.failures.status(response.status_code, response.headers, said, code)
