"""What is wrong with a request is said with the path of its field, and nothing is started."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from agentmesh.catalog.v1 import network_policy_pb2 as net
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from meshkit.testkit import raises_rich

from .conftest import Mesh

LIMITS = pb.ExecutionLimits
BAD_FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("language", {"language": 99}),
    ("path", {"path": "main.py"}),
    ("path", {"code": "", "path": "../main.py"}),
    ("path", {"code": "", "path": "-c"}),
    ("args[1]", {"args": ["fine", "a\0b"]}),
    ("args[0]", {"args": ["x" * 200_000]}),
    ("args", {"args": ["x" * 60_000, "y" * 60_000]}),
    ('environment["no name"]', {"environment": {"no name": "x"}}),
    ('environment["1ST"]', {"environment": {"1ST": "x"}}),
    ('environment["A"]', {"environment": {"A": "x\0y"}}),
    ("environment", {"environment": {"A": "x" * 70_000}}),
    ("files[1].path", {"files": [{"path": "a"}, {"path": "b/../../c"}]}),
    ("files[0].path", {"files": [{"path": "/etc/passwd"}]}),
    ("files[0].path", {"files": [{"path": "."}]}),
    ("limits.wall_time", {"limits": LIMITS(wall_time=Duration(seconds=-1))}),
    ("limits.wall_time", {"limits": LIMITS(wall_time=Duration())}),
    ("limits.wall_time", {"limits": LIMITS(wall_time=Duration(seconds=10**9))}),
    ("limits.cpu_time", {"limits": LIMITS(cpu_time=Duration(seconds=10**9))}),
    ("limits.memory_bytes", {"limits": LIMITS(memory_bytes=1)}),
    ("limits.memory_bytes", {"limits": LIMITS(memory_bytes=1 << 60)}),
    ("limits.memory_bytes", {"limits": LIMITS(memory_bytes=-1)}),
    ("limits.processes", {"limits": LIMITS(processes=1)}),
    ("limits.processes", {"limits": LIMITS(processes=1_000_000)}),
    ("limits.output_bytes", {"limits": LIMITS(output_bytes=1 << 50)}),
    ("limits.disk_bytes", {"limits": LIMITS(disk_bytes=4096)}),
    ("terminal.rows", {"terminal": pb.Terminal(rows=0, columns=80)}),
    ("terminal.columns", {"terminal": pb.Terminal(rows=24, columns=5000)}),
    ("network.mode", {"network": net.NetworkPolicy(mode=net.NetworkMode.ValueType(9))}),
    (
        "network.allow",
        {"network": net.NetworkPolicy(allow=[net.NetworkDestination(host="example.org")])},
    ),
    ("network.allow", {"network": net.NetworkPolicy(mode=net.NETWORK_MODE_ALLOW_LIST)}),
    (
        "network.dns.resolvers[0]",
        {"network": net.NetworkPolicy(dns=net.DnsPolicy(resolvers=["a name"]))},
    ),
]


async def test_fields_that_are_wrong(mesh: Mesh) -> None:
    for field, fields in BAD_FIELDS:
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field=field):
            await mesh.execute(**({"code": "print('runs')"} | fields))
    for data in (b"\x1a\x02\xff\xfe", b"garbage"):
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        call = mesh.channel.unary_stream("/agentmesh.tool_runner.v1.ToolRunnerService/Execute")
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_BODY"):
            _ = [answer async for answer in call(data, metadata=mesh.user())]
    assert (await mesh.execute("print('runs')"))[-1].finished.exit_code == 0


async def test_garbage_as_a_program(mesh: Mesh) -> None:
    """No program of its language: it fails by itself, and harms nobody."""
    garbage = bytes(range(256)) * 64
    for language in (pb.EXECUTION_LANGUAGE_PYTHON, pb.EXECUTION_LANGUAGE_SHELL):
        items = await mesh.execute(
            "", language=language, path="x", files=[pb.FileContent(path="x", content=garbage)]
        )
        assert items[-1].finished.reason == pb.EXECUTION_END_REASON_EXITED
        assert items[-1].finished.exit_code != 0
    items = await mesh.execute(
        "import os; os.write(1, b'\\xff\\xfe\\x80'); print('\\udc80', ascii('\x01\U0001f9ea'))"
    )
    assert b"".join(item.output.data for item in items).startswith(b"\xff\xfe\x80")
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await mesh.execute("", path="nothing.py")
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="path"):
        await mesh.execute("", path="d", files=[pb.FileContent(path="d/x")])


@pytest.mark.parametrize("mode", [net.NETWORK_MODE_ALLOW_LIST, net.NETWORK_MODE_OPEN])
async def test_a_network_that_cannot_be_bounded_is_refused(
    mesh: Mesh, mode: net.NetworkMode.ValueType
) -> None:
    allow = [net.NetworkDestination(host="*.example.org", ports=[443])]
    policy = net.NetworkPolicy(
        mode=mode, allow=allow if mode == net.NETWORK_MODE_ALLOW_LIST else []
    )
    with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "NETWORK_POLICY_NOT_ENFORCED") as refused:
        await mesh.execute("print('runs')", execution_id="e1", network=policy)
    assert refused.error is not None
    assert "no egress proxy" in refused.error.message
    assert refused.error.metadata["mode"] == net.NetworkMode.Name(mode)
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        request = pb.AttachRequest(execution_id="e1")
        _ = [i async for i in mesh.stub.Attach(request, metadata=mesh.user())]


async def test_no_network_is_what_there_is(mesh: Mesh) -> None:
    """With no policy and with the one that says so: nothing but a loopback of its own."""
    code = """
import os, socket
print([line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]])
for family, address in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
    try:
        socket.create_connection((address, 80), timeout=5)
    except OSError as error:
        print(error.strerror)
try:
    socket.getaddrinfo("example.org", 80)
except OSError:
    print("no names")
"""
    for policy in (None, net.NetworkPolicy(mode=net.NETWORK_MODE_NONE)):
        items = await mesh.execute(code, network=policy)
        said = b"".join(item.output.data for item in items).decode().splitlines()
        assert said[0] == "['lo']"
        assert set(said[1:3]) <= {"Network is unreachable", "Cannot assign requested address"}
        assert said[3:] == ["no names"]
