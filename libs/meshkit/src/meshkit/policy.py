"""What a method asks of its caller, read from the contract."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from agentmesh.common.v1 import metrics_service_pb2, options_pb2, trace_service_pb2
from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

INFRASTRUCTURE_PREFIXES = ("grpc.health.", "grpc.reflection.", "grpc.channelz.")
"""Services without policies: anybody may call them."""


@dataclass(frozen=True)
class MethodRules:
    """One method of the contracts, with its policy."""

    service: str
    name: str
    audience: options_pb2.Audience.ValueType
    required_role: options_pb2.Role.ValueType
    safe_to_retry: bool
    importance: options_pb2.Importance.ValueType
    scope: str
    client_streaming: bool
    server_streaming: bool
    request_class: type[Message]
    changes: bool = False
    """Whether a call may change something: every public method but those that HTTP would GET."""

    @cached_property
    def full_name(self) -> str:
        """For example "agentmesh.conversation_store.v1.TurnService/CommitTurn"."""
        return f"{self.service}/{self.name}"

    @cached_property
    def short_name(self) -> str:
        """Without the package: "TurnService/CommitTurn"."""
        return self.full_name.rpartition(".")[2]

    @cached_property
    def path(self) -> str:
        """As in HTTP/2: the full name after a slash."""
        return f"/{self.full_name}"

    @cached_property
    def is_control_stream(self) -> bool:
        """True for the long streams on which services keep in touch for themselves."""
        streams = self.client_streaming or self.server_streaming
        return streams and self.audience == options_pb2.AUDIENCE_SYSTEM


def method_rules(method: MethodDescriptor) -> MethodRules:
    """The rules of one method; its audience is AUDIENCE_UNSPECIFIED if it has no policy."""
    policy = method.GetOptions().Extensions[options_pb2.policy]
    return MethodRules(
        service=method.containing_service.full_name,
        name=method.name,
        audience=policy.audience,
        required_role=policy.required_role,
        safe_to_retry=policy.safe_to_retry,
        importance=policy.importance or options_pb2.IMPORTANCE_NORMAL,
        scope=policy.scope,
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        request_class=GetMessageClass(method.input_type),
        changes=policy.audience == options_pb2.AUDIENCE_PUBLIC and not _is_get(method),
    )


def _is_get(method: MethodDescriptor) -> bool:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    return bool(rule.WhichOneof("pattern") == "get")


def service_rules(full_name: str) -> dict[str, MethodRules]:
    """The rules of a service's methods by path. Raises KeyError for a service not imported."""
    service = descriptor_pool.Default().FindServiceByName(full_name)
    return {rules.path: rules for rules in map(method_rules, service.methods)}


def rules_of_component(component: str) -> list[MethodRules]:
    """The methods that a component such as "conversation_store" serves.

    Takes the full name of one gRPC service as well. The services of traces and metrics, which all
    of them serve, are part of either.
    """
    services = [
        trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"],
        metrics_service_pb2.DESCRIPTOR.services_by_name["MetricsService"],
    ]
    services += _services_of(component)
    return [method_rules(method) for service in services for method in service.methods]


@cache
def known_scopes() -> tuple[str, ...]:
    """The scopes of all public methods, in order: what credentials can be limited to."""
    return tuple(sorted({rules.scope for rules in rules_of_component("gateway") if rules.scope}))


def _services_of(component: str) -> Iterator[ServiceDescriptor]:
    if "." in component:
        yield descriptor_pool.Default().FindServiceByName(component)
        return
    package = importlib.import_module(f"agentmesh.{component}.v1")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.endswith("_service_pb2"):
            loaded = importlib.import_module(f"{package.__name__}.{module.name}")
            yield from loaded.DESCRIPTOR.services_by_name.values()
