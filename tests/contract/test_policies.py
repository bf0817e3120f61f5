"""`make protos-check` finds methods that do not say who may call them."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from agentmesh.common.v1 import options_pb2
from agentmesh.gateway.v1 import usage_service_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

PROTOS = runpy.run_path(str(Path(__file__).parents[2] / "scripts/protos.py"))
Policy = options_pb2.MethodPolicy
METHOD = "agentmesh.gateway.v1.UsageService/SummarizeUsage"


def image(change: Callable[[Policy], object]) -> bytes:
    """The usage service with all that it imports, one policy changed."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in files:
            for other in file.dependencies:
                add(other)
            files[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(files[file.name])

    add(usage_service_pb2.DESCRIPTOR)
    (method,) = files[usage_service_pb2.DESCRIPTOR.name].service[0].method
    change(method.options.Extensions[options_pb2.policy])
    return descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda policy: None, []),
        (lambda policy: policy.Clear(), [METHOD]),
        (lambda policy: policy.ClearField("required_role"), [METHOD]),
        (lambda policy: policy.ClearField("audience"), [METHOD]),
    ],
)
def test_methods_without_a_policy_are_found(
    change: Callable[[Policy], object], found: list[str]
) -> None:
    assert PROTOS["without_policy"](image(change)) == found
