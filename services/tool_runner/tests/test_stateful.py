"""Executions of open sessions: in warm sandboxes, and some with variables that last."""

from __future__ import annotations

import grpc
import pytest
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from meshkit.testkit import raises_rich

from .conftest import CONVERSATION, Mesh
from .test_executions import text


@pytest.fixture
async def stateful(mesh: Mesh) -> Mesh:
    told = await mesh.stub.GetCapabilities(pb.GetCapabilitiesRequest(), metadata=mesh.user())
    if not told.stateful_interpreter:
        pytest.skip("no interpreters that keep their variables here")
    assert told.warm_sandboxes > 0
    return mesh


async def test_a_session_has_a_warm_sandbox_for_its_programs(stateful: Mesh) -> None:
    code = "print('/run/resident/start.py' in open('/proc/1/cmdline').read())"
    for _ in range(3):
        assert text(await stateful.execute(code, conversation_id=CONVERSATION)) == "True\n"


async def test_users_and_agents_share_the_interpreter_of_a_conversation(stateful: Mesh) -> None:
    first = await stateful.execute("x = 20", stateful=True, conversation_id=CONVERSATION)
    assert first[0].started.fresh_interpreter is True
    called = await stateful.call("code_executor", "call_1", code="x += 1\nx", stateful=True)
    assert "exit code 0\n21" in called.result.output
    assert "new" not in called.result.output
    second = await stateful.execute("x * 2", stateful=True, conversation_id=CONVERSATION)
    assert second[0].started.fresh_interpreter is False
    assert text(second) == "42\n"
    plain = await stateful.execute("print('x' in globals())", conversation_id=CONVERSATION)
    assert not plain[0].started.HasField("fresh_interpreter")
    assert text(plain) == "False\n"


async def test_an_agent_is_told_that_variables_are_lost(stateful: Mesh) -> None:
    await stateful.call("code_executor", "call_1", code="x = 1", stateful=True)
    await stateful.call("code_executor", "call_2", code="exit()", stateful=True)
    lost = await stateful.call("code_executor", "call_3", code="x", stateful=True)
    assert "exit code 1; the interpreter is new" in lost.result.output
    wrong = await stateful.call(
        "code_executor", "call_4", code="x", language="shell", stateful=True
    )
    assert "only Python" in wrong.result.output


async def test_what_no_interpreter_can_take_is_named(mesh: Mesh) -> None:
    for fields, wrong in (
        ({}, "stateful"),
        ({"conversation_id": "c", "language": pb.EXECUTION_LANGUAGE_SHELL}, "stateful"),
        ({"conversation_id": "c", "args": ["a"]}, "args"),
        ({"conversation_id": "c", "terminal": pb.Terminal(rows=2, columns=2)}, "terminal"),
    ):
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field=wrong):
            await mesh.execute("1", stateful=True, **fields)


async def test_a_source_of_the_workspace_is_run_to_its_end(stateful: Mesh) -> None:
    """However long: what an interpreter is given is not a beginning."""
    lines = "x = '" + "a" * 1000 + "'\n"
    source = lines * 1100 + "print('the end', len(x))\n"
    request = pb.WriteFileRequest(
        conversation_id=CONVERSATION, path="long.py", chunk=source.encode()
    )
    await stateful.stub.WriteFile(iter([request]), metadata=stateful.user())
    items = await stateful.execute("", path="long.py", stateful=True, conversation_id=CONVERSATION)
    assert b"".join(item.output.data for item in items) == b"the end 1000\n"
    larger = "".join("open('huge.py', 'a').write('#' * (1 << 20))\n" for _ in range(17))
    await stateful.execute(larger, conversation_id=CONVERSATION)
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="path"):
        await stateful.execute("", path="huge.py", stateful=True, conversation_id=CONVERSATION)
