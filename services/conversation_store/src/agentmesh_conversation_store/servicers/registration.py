"""Registers servicers whose responses are serialized already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

Handler = Any


class _BytesThrough:
    """Stands in for a server while handlers are made, and lets serialized responses pass."""

    def __init__(self, server: grpc.aio.Server, methods: frozenset[str]) -> None:
        self._server = server
        self._methods = methods

    def add_generic_rpc_handlers(self, _: object) -> None:
        """The registered handlers below serve every method; see `add_registered_…`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Adds the handlers, with another serializer for the methods that need it."""
        changed = {
            name: handler._replace(response_serializer=_serialize)
            if name in self._methods
            else handler
            for name, handler in handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(service, changed)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_registered_method_handlers(service, changed)


def bytes_through(
    add_to_server: Callable[[Any, Any], None], *methods: str
) -> Callable[[Any, grpc.aio.Server], None]:
    """`add_to_server`, with methods whose servicer yields serialized responses."""

    def add(servicer: Any, server: grpc.aio.Server) -> None:
        add_to_server(servicer, _BytesThrough(server, frozenset(methods)))

    return add


def _serialize(response: bytes | Message) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()
