"""One way to call a service."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from meshkit.client_calls import CallScope, MeshMultiCallable, Metadata, call_headers
from meshkit.context import SYSTEM, Principal, RunCapability, find_capability, find_principal
from meshkit.direct_calls import DirectCalls
from meshkit.identity import InternalIdentity, active_identity, use_identity
from meshkit.policy import rules_of_component
from meshkit.service_config import service_config
from meshkit.settings import ServiceSettings
from meshkit.telemetry import Telemetry, current_telemetry
from meshkit.transport import channel_credentials, channel_options

DEFAULT_TIMEOUT_SECONDS = 30.0


def call_metadata(
    principal: Principal | None = None, capability: str | RunCapability | None = None
) -> Metadata:
    """Credentials for one call, to be passed as its `metadata`.

    Without arguments: the current principal (else SYSTEM) and the current capability, which is
    what a channel adds to a call by itself.
    """
    return call_headers(
        active_identity(),
        principal or find_principal() or SYSTEM,
        capability or find_capability(),
    )


class MeshChannels:
    """The channels of one service to others, opened once each and shared.

    Calls act for the current principal, else for the service itself. Unary calls without a
    `timeout` get `default_timeout` seconds; streams have no deadline.
    """

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        *,
        identity: InternalIdentity | None = None,
        telemetry: Telemetry | None = None,
        default_timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self._settings = settings
        self._identity = identity or InternalIdentity(name, settings)
        self._telemetry = telemetry or current_telemetry()
        self._default_timeout = default_timeout
        self._channels: dict[tuple[str, str], MeshChannel] = {}
        use_identity(self._identity)

    def channel(self, address: str, service: str) -> grpc.aio.Channel:
        """The channel to `service` at `address` ("host:port", or a gRPC target with a scheme).

        `service` is a component such as "conversation_store", whose contracts decide what is
        retried, or the full name of one gRPC service. It names the service in errors.
        """
        key = (address, service)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = self._open(address, service)
        return channel

    def _open(self, address: str, service: str) -> MeshChannel:
        methods = rules_of_component(service)
        options = [
            *channel_options(self._settings),
            ("grpc.service_config", service_config(methods)),
        ]
        target = (
            address if ":///" in address or address.startswith("unix:") else f"dns:///{address}"
        )
        credentials = channel_credentials(self._settings)
        native = (
            grpc.aio.insecure_channel(target, options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options)
        )
        scope = CallScope(
            service,
            self._identity,
            self._telemetry,
            {rules.path: rules for rules in methods},
            self._default_timeout,
        )
        return MeshChannel(native, scope)

    async def drop(self, address: str, service: str) -> None:
        """Closes one channel, if it is open: nothing is called there any more."""
        channel = self._channels.pop((address, service), None)
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        """Closes all channels; calls in flight are cancelled."""
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels))


class MeshChannel(grpc.aio.Channel):
    """A channel whose calls carry credentials, trace context and a deadline."""

    def __init__(self, native: grpc.aio.Channel, scope: CallScope) -> None:
        self._native = native
        self._scope = scope
        self._direct = DirectCalls.of(native)

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        **options: Any,
    ) -> Any:
        """A method with one request and one response."""
        codec = request_serializer, response_deserializer
        return MeshMultiCallable(
            self._scope,
            method,
            self._native.unary_unary(method, *codec, **options),
            timeout=self._scope.default_timeout,
            response_streaming=False,
            direct=self._direct.method(method, *codec) if self._direct else None,
        )

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A method with one request and a stream of responses."""
        call = self._native.unary_stream(method, *args, **kwargs)
        return MeshMultiCallable(self._scope, method, call, timeout=None, response_streaming=True)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A method with a stream of requests and one response."""
        call = self._native.stream_unary(method, *args, **kwargs)
        return MeshMultiCallable(self._scope, method, call, timeout=None, response_streaming=False)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A method with a stream of requests and a stream of responses."""
        call = self._native.stream_stream(method, *args, **kwargs)
        return MeshMultiCallable(self._scope, method, call, timeout=None, response_streaming=True)

    async def close(self, grace: float | None = None) -> None:
        """Closes the channel."""
        if self._direct is not None:
            await self._direct.close(grace)
        await self._native.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the connection."""
        return self._native.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns when the state is another one."""
        await self._native.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Returns when the service can be reached."""
        await self._native.channel_ready()

    async def __aenter__(self) -> MeshChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
