"""Puts a servicer behind a service of the contract.

A servicer is a plain object with one method per method of the contract, named in snake_case.
Methods it lacks answer UNIMPLEMENTED. Methods that yield `bytes`, or write them to their context,
forward responses that they did not decode.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from meshkit.errors import MeshError

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def python_name(method: str) -> str:
    """The name of a method of the contract in a servicer: "ListKeys" is "list_keys"."""
    return _CAPITAL.sub("_", method).lower()


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = Callable[..., Any]
Around: TypeAlias = Callable[[MethodDescriptor, Behaviour], Behaviour]
"""Puts something around what a servicer does for a method."""


def _as_it_is(_: MethodDescriptor, behaviour: Behaviour) -> Behaviour:
    return behaviour


def handlers_of(
    service: ServiceDescriptor, servicer: object, around: Around = _as_it_is
) -> dict[str, Handler]:
    """A handler for every method of `service`, by gRPC path."""
    return {
        f"/{service.full_name}/{method.name}": _handler(method, servicer, around)
        for method in service.methods
    }


def adder(
    service: ServiceDescriptor, around: Around = _as_it_is
) -> Callable[[object, grpc.aio.Server], None]:
    """What adds a servicer of `service` to a server, like the generated `add_…_to_server`."""

    def add(servicer: object, server: grpc.aio.Server) -> None:
        handlers = {method.name: _handler(method, servicer, around) for method in service.methods}
        generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
        server.add_generic_rpc_handlers((generic,))

    return add


def _handler(method: MethodDescriptor, servicer: object, around: Around) -> Handler:
    behaviour = getattr(servicer, python_name(method.name), None) or _unimplemented(method)
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    request = message_factory.GetMessageClass(method.input_type)
    make_any: Any = make
    handler: Handler = make_any(
        around(method, behaviour),
        request_deserializer=request.FromString,
        response_serializer=_serialize,
    )
    return handler


def _serialize(response: Any) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _unimplemented(method: MethodDescriptor) -> Callable[..., Any]:
    name = f"{method.containing_service.full_name}/{method.name}"
    if method.server_streaming:

        async def refuse_stream(request: object, context: object) -> Any:
            raise MeshError.unimplemented(name)
            yield  # makes this an asynchronous generator

        return refuse_stream

    async def refuse(request: object, context: object) -> Any:
        raise MeshError.unimplemented(name)

    return refuse
