"""The channel to a gateway, and calls over it that outlive short interruptions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from agentmesh_client.errors import AgentMeshError, code_of, from_rpc_error

_Response = TypeVar("_Response")
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS with a CA of one's own, and a client certificate if the gateway asks for one.

    Each is PEM bytes or the path of a PEM file; without `ca` the system's CAs are trusted.
    """

    ca: bytes | Path | None = None
    certificate: bytes | Path | None = None
    key: bytes | Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a gRPC channel."""
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.ca),
            private_key=_pem(self.key),
            certificate_chain=_pem(self.certificate),
        )


def _pem(value: bytes | Path | None) -> bytes | None:
    return value.read_bytes() if isinstance(value, Path) else value


def open_channel(address: str, tls: Tls | None, max_message_bytes: int) -> grpc.aio.Channel:
    """A channel to "host:port"; it connects when it is first used."""
    options = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, tls.credentials(), options)


class Backoff:
    """How long to wait before the next attempt: longer each time, with jitter."""

    def __init__(self, give_up_after: float) -> None:
        self._give_up_after = give_up_after
        self._loop = asyncio.get_running_loop()
        self.reset()

    def reset(self) -> None:
        """Something worked: start from the shortest wait again."""
        self._delay = _FIRST_DELAY_SECONDS
        self._since = self._loop.time()

    async def wait(self, error: AgentMeshError) -> None:
        """Waits; raises `error` if attempts have failed for too long."""
        delay = error.retry_after or self._delay * random.uniform(0.5, 1.5)  # noqa: S311  jitter
        if self._loop.time() + delay - self._since > self._give_up_after:
            raise error
        await asyncio.sleep(delay)
        self._delay = min(self._delay * 2, _LONGEST_DELAY_SECONDS)


class Caller:
    """Makes unary calls. Every call is harmless to repeat: it reads, or carries a request id."""

    def __init__(self, api_key: str | None, timeout: float, retry_for: float) -> None:
        self.metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._timeout = timeout
        self._retry_for = retry_for

    async def __call__(self, method: Callable[..., Any], request: Any) -> Any:
        """The response. Raises AgentMeshError."""
        backoff = Backoff(self._retry_for)
        while True:
            try:
                return await method(request, metadata=self.metadata, timeout=self._timeout)
            except grpc.aio.AioRpcError as failure:
                error = from_rpc_error(failure)
                if code_of(failure) is not grpc.StatusCode.UNAVAILABLE:
                    raise error from None
            await backoff.wait(error)
