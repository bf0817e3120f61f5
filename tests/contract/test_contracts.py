"""Rules of the contracts that no linter knows."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from agentmesh.common.v1 import errors_pb2, options_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor

GENERATED = Path(__file__).parents[2] / "protos/gen/python"


def load_services() -> Iterator[ServiceDescriptor]:
    for path in sorted(GENERATED.rglob("*_service_pb2.py")):
        module = ".".join(path.relative_to(GENERATED).with_suffix("").parts)
        yield from importlib.import_module(module).DESCRIPTOR.services_by_name.values()


SERVICES = list(load_services())
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
PUBLIC = [m for m in METHODS if m.containing_service.full_name.startswith("agentmesh.gateway.")]


def name(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}.{method.name}"


def policy(method: MethodDescriptor) -> options_pb2.MethodPolicy:
    found = method.GetOptions().Extensions[options_pb2.policy]
    assert isinstance(found, options_pb2.MethodPolicy)
    return found


def rest_path(method: MethodDescriptor) -> tuple[str, str]:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return verb, getattr(rule, verb) if verb else ""


def test_all_four_services_have_contracts() -> None:
    packages = {s.full_name.split(".")[1] for s in SERVICES}
    assert packages >= {"gateway", "agent_runtime", "tool_runner", "conversation_store"}


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_every_method_says_who_may_call_it(method: MethodDescriptor) -> None:
    stated = policy(method)
    assert stated.audience != options_pb2.AUDIENCE_UNSPECIFIED
    needs_role = stated.audience in (options_pb2.AUDIENCE_PUBLIC, options_pb2.AUDIENCE_INTERNAL)
    assert (stated.required_role != options_pb2.ROLE_UNSPECIFIED) == needs_role


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_public_methods_and_no_others_have_a_scope(method: MethodDescriptor) -> None:
    stated = policy(method)
    assert bool(stated.scope) == (stated.audience == options_pb2.AUDIENCE_PUBLIC)
    if stated.scope:
        assert re.fullmatch(r"[a-z_]+:(read|write|execute)", stated.scope)


@pytest.mark.parametrize("method", PUBLIC, ids=name)
def test_every_public_method_has_a_rest_path(method: MethodDescriptor) -> None:
    verb, path = rest_path(method)
    # Streams of both ways are WebSockets, which `google.api.http` cannot say.
    assert bool(verb) != (method.client_streaming and method.server_streaming)
    fields = {f.name for f in method.input_type.fields}
    for parameter in re.findall(r"{(\w+)", path):
        assert parameter in fields


def test_rest_paths_are_unique() -> None:
    paths = [(verb, re.sub(r"{\w+}", "{}", path)) for verb, path in map(rest_path, PUBLIC) if verb]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("post", "/conversations/start"),
        ("get", "/conversations/{conversation_id}"),
        ("post", "/conversations/{conversation_id}/message"),
        ("get", "/conversations/{conversation_id}/debug"),
        ("get", "/conversations/health"),
        ("post", "/workflows/execute"),
        ("get", "/workflows/{execution_id}/status"),
        ("get", "/agents"),
        ("get", "/agents/health"),
        ("post", "/agents/register"),
        ("get", "/health"),
    ],
)
def test_the_documented_endpoints_exist(verb: str, path: str) -> None:
    assert (verb, path) in [rest_path(m) for m in PUBLIC]


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_the_tenant_comes_from_credentials_only(method: MethodDescriptor) -> None:
    """No request of a user carries a tenant; audit batches are written by the system."""
    if policy(method).audience in (options_pb2.AUDIENCE_PUBLIC, options_pb2.AUDIENCE_INTERNAL):
        assert "tenant" not in method.input_type.fields_by_name


@pytest.mark.parametrize("method", PUBLIC, ids=name)
def test_lists_are_paged_alike(method: MethodDescriptor) -> None:
    fields = method.output_type.fields_by_name
    if "next_page_token" in fields:
        request = method.input_type.fields_by_name
        assert request["page_size"].type == FieldDescriptor.TYPE_INT32
        assert request["page_token"].type == FieldDescriptor.TYPE_STRING


def test_mutations_can_be_repeated() -> None:
    """A public call that changes something carries a request id or is harmless to repeat. Uploads
    are streams: the same blob again is the same blob, and another import another conversation."""
    bare = [
        name(m)
        for m in PUBLIC
        if not policy(m).safe_to_retry
        and "request_id" not in m.input_type.fields_by_name
        and not m.server_streaming
        and not m.client_streaming
    ]
    assert not bare


def test_error_reasons_state_their_code() -> None:
    names = [v.name for v in errors_pb2.ErrorReason.DESCRIPTOR.values]
    assert all(n.startswith("ERROR_REASON_") for n in names)
    assert len(names) == len(set(names))


def test_one_stream_item_serves_store_and_gateway() -> None:
    """The gateway forwards the store's bytes: both responses must be alike on the wire."""
    gateway, store = (
        next(
            m
            for m in METHODS
            if m.name == "SubscribeConversation" and m.containing_service.full_name.startswith(p)
        ).output_type
        for p in ("agentmesh.gateway.", "agentmesh.conversation_store.")
    )
    item = gateway.fields_by_name["item"]
    assert item.message_type is store.fields_by_name["item"].message_type
    assert item.number == store.fields_by_name["item"].number
    assert len(gateway.fields) == len(store.fields) == 1
