"""The main job with a model behind an OpenAI-compatible server: streams, tool calls, usage."""

from __future__ import annotations

from typing import Any

from agentmesh.conversation.v1 import conversation_pb2, message_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub

from tests.support.conversations import MAIN_JOB, TEAM, follow, messages_of, run_end, tool_results
from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer, Reply
from tests.support.prompts import Prompt, call_tool

FIRST_VERSION = """
import re
from datetime import timedelta

def parse_duration(text):
    match = re.fullmatch(r"P(?:(\\d+)D)?", text)
    return timedelta(days=int(match[1]))
"""
MENDED = """
import re
from datetime import timedelta

PATTERN = re.compile(r"P(?:(\\d+)D)?(?:T(?:(\\d+)H)?(?:(\\d+)M)?)?")

def parse_duration(text):
    match = PATTERN.fullmatch(text)
    if not match or not any(match.groups()):
        raise ValueError(text)
    days, hours, minutes = (int(group or 0) for group in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes)
"""
TESTS = """
from datetime import timedelta
from durations import parse_duration

def test_days():
    assert parse_duration("P2D") == timedelta(days=2)

def test_hours():
    assert parse_duration("P1DT2H") == timedelta(days=1, hours=2)
"""


def developer(prompt: Prompt) -> Reply:
    """Writes, tests, and mends only what the tests found."""
    done = prompt.tool_results
    if not done:
        return call_tool("code_writer", path="durations.py", content=FIRST_VERSION)
    if len(done) == 1:
        return call_tool("code_writer", path="test_durations.py", content=TESTS)
    if "failed" in done[-1]:
        return call_tool("code_writer", path="durations.py", content=MENDED)
    if "passed" in done[-1]:
        return Reply("All tests pass.")
    return call_tool("code_executor", language="shell", code="python3 -m pytest -q")


def model(body: dict[str, Any], number: int) -> Reply:
    """Plays the three roles by the tools that each of them is given."""
    prompt = Prompt(body)
    if "code_executor" in prompt.tools:
        return developer(prompt)
    if "code_analyzer" in prompt.tools:
        if not prompt.tool_results:
            return call_tool("code_analyzer", paths=["durations.py"])
        return Reply("APPROVED")
    if any("APPROVED" in str(message["content"]) for message in prompt.messages):
        return Reply("The function is written, tested and reviewed. TERMINATE")
    return Reply("developer, write durations.py and its tests.")


async def test_the_main_job_on_an_openai_server(
    model_mesh: Mesh, model_server: ModelServer
) -> None:
    model_server.reply_with(model)
    started = await model_mesh.start_conversation(MAIN_JOB, TEAM, workflow="software_development")
    events = await follow(model_mesh.channel(), started.conversation_id)
    assert run_end(events).status == conversation_pb2.RUN_STATUS_COMPLETED, run_end(events)

    tests = [r for r in tool_results(events) if r.tool == "code_executor"]
    assert "1 failed, 1 passed" in tests[0].output
    assert "2 passed" in tests[-1].output
    assert tests[-1].outcome == message_pb2.TOOL_OUTCOME_OK
    said = [m.content for m in messages_of(events) if m.role == message_pb2.MESSAGE_ROLE_AGENT]
    assert said[-1].startswith("The function is written, tested and reviewed.")
    assert all(request["stream"] for request in model_server.requests)

    whole = await ConversationServiceStub(model_mesh.channel()).GetConversation(
        conversations.GetConversationRequest(conversation_id=started.conversation_id)
    )
    assert whole.usage.model_calls == len(model_server.requests)
    assert whole.usage.input_tokens > 0
    assert not whole.usage.estimated
