"""What the streams of the contract are held to, whichever edge they come over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import MethodDescriptor

from agentmesh_gateway.limits.slow_readers import SlowReaders
from agentmesh_gateway.limits.uploads import UploadPace

if TYPE_CHECKING:
    from agentmesh_gateway.settings import GatewaySettings


class StreamLimits:
    """Uploads come at a pace, and who reads a stream takes what it says."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._uploads = UploadPace(settings.upload_seconds, settings.upload_min_bytes_per_second)
        self._readers = SlowReaders(settings.slow_reader_seconds)

    def hold(self, method: MethodDescriptor, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        """What a servicer does for `method`, within the limits."""
        if method.server_streaming:
            return self._readers.watching(behaviour)
        if not method.client_streaming:
            return behaviour

        async def serve(requests: AsyncIterator[Any], context: object) -> Any:
            return await behaviour(self._uploads.of(requests), context)

        return serve
