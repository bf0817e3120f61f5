"""Whatever changes something can be repeated without harm."""

from __future__ import annotations

import pytest
from agentmesh.common.v1 import options_pb2
from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from meshkit.policy import method_rules

from .test_contracts import PUBLIC, name

# Each message of the stream is a call of its own, with an id of its own.
STREAMS_OF_CALLS = {"ConversationService.Converse"}
CHANGES = [m for m in PUBLIC if method_rules(m).changes and name(m) not in STREAMS_OF_CALLS]
READS = [m for m in PUBLIC if not method_rules(m).changes]
LONGEST_ID = 128


@pytest.mark.parametrize("method", CHANGES, ids=name)
def test_every_change_has_a_request_id(method: MethodDescriptor) -> None:
    field = method.input_type.fields_by_name.get("request_id")
    assert field is not None, "whoever changes something must be able to repeat the call"
    assert field.type == FieldDescriptor.TYPE_STRING
    rules = field.GetOptions().Extensions[validate_pb2.field]
    assert rules.string.max_len == LONGEST_ID


@pytest.mark.parametrize("method", READS, ids=name)
def test_every_read_may_be_repeated_without_one(method: MethodDescriptor) -> None:
    assert "request_id" not in method.input_type.fields_by_name
    assert method.GetOptions().Extensions[options_pb2.policy].safe_to_retry
