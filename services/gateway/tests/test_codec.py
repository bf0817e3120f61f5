"""JSON: round trips of arbitrary messages, agreement with protobuf's own JSON, and refusals."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from agentmesh.catalog.v1.agent_pb2 import AgentDefinition, HumanInputMode
from agentmesh.catalog.v1.team_pb2 import TeamDefinition
from agentmesh.conversation.v1.conversation_pb2 import ConversationStatus
from agentmesh.conversation.v1.event_pb2 import Event
from agentmesh.gateway.v1.agent_service_pb2 import RegisterAgentRequest
from agentmesh.gateway.v1.conversation_service_pb2 import (
    GetConversationResponse,
    StartConversationRequest,
    StartConversationResponse,
    UpdateConversationRequest,
)
from agentmesh_gateway.descriptors import is_map, is_repeated, message_type
from agentmesh_gateway.rest.codec import (
    MalformedJsonError,
    encode_message,
    message_codec,
    parse_json,
)
from agentmesh_gateway.rest.enums import enum_codec
from agentmesh_gateway.rest.problems import Path, Problem, Problems
from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(allow_nan=False, width=32),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}
_MESSAGE_TYPES: list[type[Message]] = [
    Event,
    TeamDefinition,
    AgentDefinition,
    GetConversationResponse,
    RegisterAgentRequest,
    StartConversationRequest,
    UpdateConversationRequest,
]
_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXT, inner, max_size=2),
    max_leaves=4,
)


def _numbers(field: FieldDescriptor) -> list[int]:
    enum: Any = field.enum_type
    return [value.number for value in enum.values]


def _scalar(draw: st.DrawFn, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return draw(st.sampled_from(_numbers(field)))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw(st.binary(max_size=8))
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw(_TEXT)
    return draw(_SCALARS[field.cpp_type])


def _fill(draw: st.DrawFn, message: Any, depth: int) -> None:
    descriptor: Descriptor = message.DESCRIPTOR
    name = descriptor.full_name
    if name == "google.protobuf.Timestamp":
        message.seconds = draw(st.integers(-62135596800, 253402300799))
        message.nanos = draw(st.integers(0, 999_999_999))
    elif name == "google.protobuf.Duration":
        message.seconds = draw(st.integers(0, 315_576_000_000))
        message.nanos = draw(st.integers(0, 999_999_999))
    elif name == "google.protobuf.FieldMask":
        message.paths.extend(draw(st.lists(st.sampled_from(["labels", "budget.max_turns"]))))
    elif name == "google.protobuf.Struct":
        message.update(draw(st.dictionaries(_TEXT, _JSON_VALUES, max_size=2)))
    else:
        for field in descriptor.fields:
            if draw(st.booleans()):
                _fill_field(draw, message, field, depth)


def _fill_field(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    count = draw(st.integers(0, 2)) if is_repeated(field) else 1
    if is_map(field):
        value = message_type(field).fields_by_name["value"]
        for _ in range(count):
            key = _scalar(draw, message_type(field).fields_by_name["key"])
            if value.type == FieldDescriptor.TYPE_MESSAGE:
                _fill(draw, getattr(message, field.name)[key], depth - 1)
            else:
                getattr(message, field.name)[key] = _scalar(draw, value)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        for _ in range(count if depth else 0):
            target = getattr(message, field.name)
            child = target.add() if is_repeated(field) else target
            if not is_repeated(field):
                child.SetInParent()
            _fill(draw, child, depth - 1)
    elif is_repeated(field):
        getattr(message, field.name).extend(_scalar(draw, field) for _ in range(count))
    else:
        setattr(message, field.name, _scalar(draw, field))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    message_type = draw(st.sampled_from(_MESSAGE_TYPES))
    message = message_type()
    _fill(draw, message, 3)
    return message


def decode(message: Message, document: object) -> tuple[Problem, ...]:
    problems = Problems()
    message_codec(message.DESCRIPTOR).decode(document, message, Path(), problems)
    return problems.found


def test_negative_zero_keeps_its_sign() -> None:
    message = AgentDefinition(component_config=struct_pb2.Struct())
    message.component_config.fields["x"].number_value = -0.0
    again = AgentDefinition()
    assert decode(again, parse_json(orjson.dumps(encode_message(message)))) == ()
    assert again == message


@settings(max_examples=300, deadline=None)
@given(messages())
def test_every_message_survives_the_way_through_json_bytes(message: Message) -> None:
    again = type(message)()
    assert decode(again, parse_json(orjson.dumps(encode_message(message)))) == ()
    assert again == message


@settings(max_examples=300, deadline=None)
@given(messages())
def test_what_protobufs_own_json_prints_is_read_alike(message: Message) -> None:
    text = json_format.MessageToJson(message, preserving_proto_field_name=True)
    if "update_mask" in text:
        return  # protobuf prints the paths of a mask in camelCase
    again = type(message)()
    assert decode(again, json.loads(text)) == ()
    assert again == message


@settings(max_examples=300, deadline=None)
@given(messages())
def test_what_is_printed_means_the_same_to_protobufs_own_json(message: Message) -> None:
    def full_names(value: Any, descriptor: Any) -> Any:
        """Puts back what we print otherwise: the long names of enums."""
        if descriptor.full_name.startswith("google.protobuf."):
            return value
        result = {}
        for name, item in value.items():
            field = descriptor.fields_by_name[name]
            if is_map(field):
                field = message_type(field).fields_by_name["value"]
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    item = {key: full_names(v, message_type(field)) for key, v in item.items()}
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                many = (
                    [full_names(v, message_type(field)) for v in item]
                    if isinstance(item, list)
                    else full_names(item, message_type(field))
                )
                item = many
            elif field.type == FieldDescriptor.TYPE_ENUM:
                codec = enum_codec(field.enum_type)
                item = (
                    [codec.decode(v) for v in item]
                    if isinstance(item, list)
                    else codec.decode(item)
                )
            result[name] = item
        return result

    printed = encode_message(message)
    if "update_mask" in printed:
        return
    again = type(message)()
    json_format.ParseDict(full_names(printed, message.DESCRIPTOR), again)
    assert again == message


def test_enums_are_short_and_lower_case_and_read_in_every_spelling() -> None:
    codec = enum_codec(ConversationStatus.DESCRIPTOR)
    assert codec.encode(ConversationStatus.CONVERSATION_STATUS_RUNNING) == "running"
    for spelling in ("running", "RUNNING", "CONVERSATION_STATUS_RUNNING", 1):
        assert codec.decode(spelling) == 1
    assert enum_codec(HumanInputMode.DESCRIPTOR).decode("NEVER") == 1
    assert codec.decode("walking") is None
    assert codec.decode(True) is None
    assert codec.encode(99) == 99


def test_fields_with_a_default_are_printed_and_unset_ones_are_not() -> None:
    printed = encode_message(StartConversationResponse(conversation_id="conv_1"))
    assert printed == {
        "conversation_id": "conv_1",
        "agents": [],
        "task": "",
        "workflow": "",
        "run_id": "",
        "max_rounds": 0,
        "owner": "",
    }


def test_integers_are_numbers_as_far_as_every_reader_holds_them() -> None:
    assert encode_message(Event(sequence=2**53 - 1))["sequence"] == 2**53 - 1
    assert encode_message(Event(sequence=2**53))["sequence"] == str(2**53)


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ({"tsak": "x"}, "tsak", 'did you mean "task"'),
        ({"nonsense": 1}, "nonsense", "its fields are"),
        ({"task": 5}, "task", "must be a string"),
        ({"agents": "developer"}, "agents", "must be a list"),
        ({"agents": ["a", 7]}, "agents[1]", "must be a string"),
        ({"max_rounds": 1.5}, "max_rounds", "must be an integer"),
        ({"max_rounds": True}, "max_rounds", "must be an integer"),
        ({"max_rounds": 2**31}, "max_rounds", "must be between"),
        ({"max_rounds": "1" * 100}, "max_rounds", "must be an integer"),
        ({"human_input": "yes"}, "human_input", "true or false"),
        ({"timeout": 90}, "timeout", '"90s"'),
        ({"timeout": "1e9s"}, "timeout", '"90s"'),
        ({"labels": {"a": 1}}, 'labels["a"]', "must be a string"),
        ({"labels": []}, "labels", "must be an object"),
        ({"budget": {"max_tokns": 1}}, "budget.max_tokns", "max_tokens"),
        ({"budget": []}, "budget", "must be an object"),
        ({"task": "\ud800"}, "task", "surrogate"),
        ([], "", "must be an object"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(
    document: object, field: str, words: str
) -> None:
    (problem,) = decode(StartConversationRequest(), document)
    assert problem.field == field
    assert words in problem.description


def test_all_problems_are_reported_at_once() -> None:
    found = decode(StartConversationRequest(), {"a": 1, "task": 2, "max_rounds": "x"})
    assert [problem.field for problem in found] == ["a", "task", "max_rounds"]


def test_two_members_of_one_oneof_are_refused() -> None:
    found = decode(Event(), {"handoff": {}, "redacted": {}})
    assert found[0].field == "redacted"


def test_deep_documents_are_refused_and_the_deepest_allowed_survives_the_wire() -> None:
    def nested(levels: int) -> dict[str, Any]:
        document: dict[str, Any] = {}
        for _ in range(levels):
            document = {"a": document}
        return {"name": "x", "config": {"llm_config": {"extra": document}}}

    deepest = RegisterAgentRequest()
    assert decode(deepest, nested(25)) == ()
    assert RegisterAgentRequest.FromString(deepest.SerializeToString()) == deepest
    (problem,) = decode(RegisterAgentRequest(), nested(60))
    assert "nested deeper" in problem.description


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "line 1 column 2"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": ' + b"1" * 6000 + b"}", "too many digits"),
        (b"[" * 100_000, "nested too deep"),
        (b"", "line 1"),
    ],
)
def test_bytes_that_are_no_json_are_refused_with_the_reason(body: bytes, words: str) -> None:
    with pytest.raises(MalformedJsonError, match=words):
        parse_json(body)


def test_values_of_any_shape_pass_through_structs() -> None:
    value: dict[str, Any] = {"a": [1, 2.5, None, {"b": "ü"}], "c": True}
    struct = struct_pb2.Struct()
    struct.update(value)
    assert encode_message(struct) == value


@pytest.mark.parametrize(
    "nanos", [0, 120_000_000, 123_000_000, 123_400_000, 123_456_000, 1, 999_999_999]
)
@pytest.mark.parametrize("seconds", [-62_135_596_800, -1, 0, 1_795_881_600, 253_402_300_799])
def test_times_are_written_as_protobuf_writes_them(seconds: int, nanos: int) -> None:
    time = timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)
    assert encode_message(time) == time.ToJsonString()
