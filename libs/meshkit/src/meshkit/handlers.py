"""Where a server finds the handler of a call: in one table.

grpc.aio waits for calls of each registered method by a future of its own, and for every call it
waits anew for all of them: with sixty methods that is a tenth of what a call costs. So methods are
not registered with the server, although generated code asks for it, but stand in one generic
handler, for which there is one future.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class HandlerTable(grpc.GenericRpcHandler):
    """Stands in for a server while servicers are added, then answers for all of them."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._others: list[grpc.GenericRpcHandler] = []

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Called by generated code; the names are those of the methods, without their service."""
        self._handlers.update({f"/{service}/{name}": one for name, one in handlers.items()})

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Called by generated code, too, with the same methods; and alone by what is older."""
        self._others += handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of the method that is called, if there is one."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is not None:
            return handler
        for other in self._others:
            found = other.service(handler_call_details)
            if found is not None:
                return found
        return None

    def serve_from(self, server: grpc.aio.Server) -> None:
        """Lets the server ask here."""
        server.add_generic_rpc_handlers((self,))
