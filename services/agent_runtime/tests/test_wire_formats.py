"""What is particular to one provider's requests and replies."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from typing import Any

import pytest
from agentmesh_agent_runtime.definitions.check import check_agent
from agentmesh_agent_runtime.definitions.specs import AgentSpec, LlmSettings
from agentmesh_agent_runtime.models.anthropic_servers import Servers as AnthropicServers
from agentmesh_agent_runtime.models.endpoints import Endpoint
from agentmesh_agent_runtime.models.ollama_servers import Servers as OllamaServers
from agentmesh_agent_runtime.models.openai_servers import HOME
from agentmesh_agent_runtime.models.openai_servers import Servers as OpenAIServers
from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, ReplySource
from autogen_core import FunctionCall, Image
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    SystemMessage,
    UserMessage,
)
from PIL import Image as Picture
from pydantic import BaseModel, SecretStr
from typing_extensions import override

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    team,
)
from services.agent_runtime.tests.test_profiles import catalog, profile
from tests.support.anthropic_server import CACHED, AnthropicServer
from tests.support.model_server import Fault, ModelServer, Reply, ToolCall
from tests.support.ollama_server import OllamaServer

CALL = FunctionCall(id="call_1", name="probe", arguments='{"n": 1}')
BROKEN = FunctionCall(id="call_2", name="probe", arguments='{"n": ')
RESULTS = FunctionExecutionResultMessage(
    content=[
        FunctionExecutionResult(content="fine", name="probe", call_id="call_1", is_error=False),
        FunctionExecutionResult(content="no JSON", name="probe", call_id="call_2", is_error=True),
    ]
)
CALLED = AssistantMessage(content=[CALL, BROKEN], source="a", thought="I look.")
TOOL: Any = {"name": "probe", "description": "Probes.", "parameters": {"properties": {"n": {}}}}


class Answer(BaseModel):
    number: int


def wanted(*messages: LLMMessage, **fields: Any) -> ModelRequest:
    return ModelRequest(agent="a", role="", stage="", round=0, messages=messages, **fields)


def user(content: Any) -> UserMessage:
    return UserMessage(content=content, source="u")


def picture() -> Image:
    buffer = io.BytesIO()
    Picture.new("RGB", (2, 2), "red").save(buffer, "PNG")
    return Image.from_base64(base64.b64encode(buffer.getvalue()).decode())


async def reply_of(source: ReplySource, request: ModelRequest) -> ModelReply:
    *_, last = [item async for item in source.stream(request)]
    assert isinstance(last, ModelReply)
    return last


async def to_anthropic(request: ModelRequest, **settings: Any) -> tuple[dict[str, Any], ModelReply]:
    """What reaches the server, and what is made of its answer."""
    servers = AnthropicServers()
    async with AnthropicServer() as server:
        endpoint = Endpoint("claude-x", server.base_url, SecretStr("k"), **settings)
        reply = await reply_of(servers.source(endpoint), request)
        await servers.close()
        assert server.headers[0]["anthropic-version"] == "2023-06-01"
        return server.requests[0], reply


async def to_ollama(request: ModelRequest, **settings: Any) -> dict[str, Any]:
    servers = OllamaServers()
    async with OllamaServer() as server:
        endpoint = Endpoint("llama", server.base_url, **settings)
        await reply_of(servers.source(endpoint), request)
        await servers.close()
        return server.requests[0]


async def test_azure_is_asked_for_a_deployment_with_its_key_and_version(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(Reply("done TERMINATE"))
    root = model_server.base_url.removesuffix("/v1")
    for base_url, version in (
        (root, "2024-10-21"),
        (f"{root}/?api-version=2031-01-01", "2031-01-01"),
    ):
        azure = profile(
            key="gsk_k", provider="azure_openai", model="my-deployment", base_url=base_url
        )
        run = MemoryRun(team(agent("alice", llm_config={"profile": "fast"})), [asked()])
        await take_all(run, driver(run, profiles=[azure]))
        url = f"/openai/deployments/my-deployment/chat/completions?api-version={version}"
        assert model_server.urls[-1] == url
        assert model_server.headers[-1]["api-key"] == "gsk_k"
        assert "Authorization" not in model_server.headers[-1]


async def test_no_profile_is_sent_to_a_server_that_only_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.test/v1")
    models = catalog(profile(key="k"))
    source: Any = models.resolve(LlmSettings(profile="fast"))
    assert str(source._source._connection.base_url).rstrip("/") == HOME
    await models.close()


@pytest.mark.parametrize("settings", [{"profile": "fast"}, {"model": "gpt-4"}])
def test_extra_settings_cannot_change_the_model_or_the_stream(settings: dict[str, Any]) -> None:
    spec = AgentSpec(id="a", llm_config=LlmSettings(extra={"model": "dear"}, **settings))
    (finding,) = check_agent(spec, "agents[0]", catalog(profile()).problem)
    assert finding.path == "agents[0].llm_config.extra.model"


async def test_anthropic_counts_what_was_cached_as_input() -> None:
    _, reply = await to_anthropic(wanted(user("one two")))
    assert reply.usage.cached_input_tokens == CACHED
    assert reply.usage.input_tokens > CACHED


async def test_anthropic_gets_calls_and_results_in_turns_that_alternate() -> None:
    request = wanted(
        SystemMessage(content="Be kind."),
        SystemMessage(content="Be brief."),
        user("Do it."),
        user("Now."),
        CALLED,
        RESULTS,
        tools=[TOOL],
        tool_choice="required",
    )
    body, _ = await to_anthropic(request)
    assert body["system"] == "Be kind.\n\nBe brief."
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]
    asked_, called, told = (m["content"] for m in body["messages"])
    assert [block["text"] for block in asked_] == ["Do it.", "Now."]
    assert [block["type"] for block in called] == ["text", "tool_use", "tool_use"]
    assert called[1] == {"type": "tool_use", "id": "call_1", "name": "probe", "input": {"n": 1}}
    assert called[2]["input"] == {"malformed_arguments": '{"n": '}
    assert [(b["tool_use_id"], b["content"], b["is_error"]) for b in told] == [
        ("call_1", "fine", False),
        ("call_2", "no JSON", True),
    ]
    assert body["tool_choice"] == {"type": "any"}
    (tool,) = body["tools"]
    assert tool["input_schema"] == {"type": "object", "properties": {"n": {}}}


async def test_anthropic_gets_a_history_of_calls_as_text_if_there_are_no_tools() -> None:
    body, _ = await to_anthropic(wanted(user("Do it."), CALLED, RESULTS))
    kinds = {block["type"] for message in body["messages"] for block in message["content"]}
    assert kinds == {"text"}
    assert "tools" not in body
    assert '[called probe with {"n": 1}]' in str(body["messages"])
    assert "[probe answered: fine]" in str(body["messages"])


async def test_ids_that_other_providers_gave_their_calls_are_made_fit_for_anthropic() -> None:
    history: list[LLMMessage] = [user("Do it.")]
    for call_id in ("call_0_0", "call_0_0", "call_0_0~2"):
        call = FunctionCall(id=call_id, name="probe", arguments="{}")
        result = FunctionExecutionResult(content="x", name="probe", call_id=call_id)
        history.append(AssistantMessage(content=[call], source="a"))
        history.append(FunctionExecutionResultMessage(content=[result]))
    body, _ = await to_anthropic(wanted(*history, tools=[TOOL]))
    blocks = [block for message in body["messages"] for block in message["content"]]
    called = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert len(set(called)) == 3
    assert all(re.fullmatch("[A-Za-z0-9_-]+", call_id) for call_id in called)
    assert [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"] == called


async def test_calls_that_anthropic_answers_itself_are_no_calls() -> None:
    class Searching(AnthropicServer):
        @override
        def frames(self, reply: Reply, body: dict[str, Any], number: int) -> list[bytes]:
            frames = super().frames(reply, body, number)
            return [
                frame.replace(b'"tool_use", "id"', b'"server_tool_use", "id"') for frame in frames
            ]

    servers = AnthropicServers()
    async with Searching() as server:
        server.reply_with(Reply("Found it.", tool_calls=(ToolCall("web_search", '{"q": 1}'),)))
        endpoint = Endpoint("claude-x", server.base_url)
        reply = await reply_of(servers.source(endpoint), wanted(user("Search.")))
        await servers.close()
    assert reply.text == "Found it."
    assert reply.calls == ()


async def test_what_anthropic_says_as_it_begins_is_said() -> None:
    class Hasty(AnthropicServer):
        @override
        def frames(self, reply: Reply, body: dict[str, Any], number: int) -> list[bytes]:
            frames = super().frames(reply, body, number)
            return [frame.replace(b'"text": ""', b'"text": "Well, "') for frame in frames]

    servers = AnthropicServers()
    async with Hasty() as server:
        server.reply_with(Reply("found it."))
        source = servers.source(Endpoint("claude-x", server.base_url))
        assert (await reply_of(source, wanted(user("Search.")))).text == "Well, found it."
        await servers.close()


async def test_anthropics_turns_begin_and_end_with_the_user() -> None:
    said = AssistantMessage(content="I said. ", source="a")
    body, _ = await to_anthropic(wanted(said, user(" "), said))
    assert [m["role"] for m in body["messages"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    texts = [block["text"] for message in body["messages"] for block in message["content"]]
    assert all(text and text == text.rstrip() for text in texts)


async def test_anthropic_thinks_but_not_between_a_call_and_its_result() -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 2000}}
    body, _ = await to_anthropic(wanted(user("Do it.")), extra=thinking, temperature=0.5)
    assert body["thinking"] == thinking["thinking"]
    assert "temperature" not in body
    request = wanted(user("Do it."), CALLED, RESULTS, tools=[TOOL])
    body, _ = await to_anthropic(request, extra=thinking, temperature=1.7)
    assert "thinking" not in body
    assert body["temperature"] == 1.0


async def test_images_reach_anthropic_and_ollama() -> None:
    request = wanted(user(["Look:", picture()]))
    body, _ = await to_anthropic(request)
    text, image = body["messages"][0]["content"]
    assert text["text"] == "Look:"
    assert image["source"]["media_type"] == "image/png"
    assert base64.b64decode(image["source"]["data"]).startswith(b"\x89PNG")
    (message,) = (await to_ollama(request))["messages"]
    assert message["content"] == "Look:"
    assert base64.b64decode(message["images"][0]).startswith(b"\x89PNG")


async def test_structured_output_is_asked_of_anthropic_and_ollama() -> None:
    body, _ = await to_anthropic(wanted(user("How many?"), json_output=Answer))
    assert '"number"' in body["system"]
    asked_ = await to_ollama(wanted(user("How many?"), json_output=Answer))
    assert asked_["format"] == Answer.model_json_schema()
    assert (await to_ollama(wanted(user("How many?"), json_output=True)))["format"] == "json"


@pytest.mark.parametrize("structured", [True, False])
async def test_structured_output_is_asked_of_openai(
    model_server: ModelServer, structured: bool
) -> None:
    servers = OpenAIServers()
    endpoint = Endpoint("m", model_server.base_url, SecretStr("k"), structured_output=structured)
    await reply_of(servers.source(endpoint), wanted(user("How many?"), json_output=Answer))
    await servers.close()
    (body,) = model_server.requests
    if structured:
        schema = body["response_format"]["json_schema"]
        assert schema["strict"] is True
        assert schema["schema"]["properties"].keys() == {"number"}
    else:
        assert body["response_format"] == {"type": "json_object"}
        assert "number" in body["messages"][0]["content"]


async def test_ollama_gets_calls_results_and_options() -> None:
    request = wanted(user("Do it."), CALLED, RESULTS, tools=[TOOL])
    settings = {"options": {"num_ctx": 8192}, "think": True}
    body = await to_ollama(request, extra=settings, temperature=0.5, max_tokens=9)
    assert body["options"] == {"num_ctx": 8192, "temperature": 0.5, "num_predict": 9}
    assert body["think"] is True
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "tool", "tool"]
    called = body["messages"][1]
    assert called["content"] == "I look."
    assert [call["function"]["arguments"] for call in called["tool_calls"]] == [
        {"n": 1},
        {"malformed_arguments": '{"n": '},
    ]
    assert body["messages"][2] == {"role": "tool", "tool_name": "probe", "content": "fine"}
    assert body["tools"][0]["function"]["parameters"]["type"] == "object"
    none = wanted(user("Do it."), tools=[TOOL], tool_choice="none")
    assert "tools" not in await to_ollama(none)


async def test_a_connection_is_used_again(model_server: ModelServer) -> None:
    run = MemoryRun(team(agent("alice"), agent("bob")), [asked("begin")], max_rounds=4)
    await take_all(run, driver(run, model_server.base_url))
    assert len(model_server.requests) == 4
    assert len(model_server.callers) == 1


async def test_a_stream_that_does_not_end_is_not_waited_for(model_server: ModelServer) -> None:
    model_server.fail_next(*[Fault(stream="linger")] * 2)
    run = MemoryRun(team(agent("alice"), agent("bob")), [asked("begin")], max_rounds=2)
    await asyncio.wait_for(take_all(run, driver(run, model_server.base_url)), 30)
    assert [m.text for m in run.said] == ["reply 1", "reply 2"]
    assert len(model_server.callers) == 2
