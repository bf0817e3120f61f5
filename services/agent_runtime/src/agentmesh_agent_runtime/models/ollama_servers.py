"""Servers that speak Ollama's chat API, their replies read from the wire.

AutoGen's client is not used: it raises on tool arguments that are no JSON, takes a stream that
breaks off for a whole reply and drops what a model thinks.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from autogen_core import Image
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResultMessage,
    LLMMessage,
    ModelInfo,
    SystemMessage,
    UserMessage,
)
from pydantic import BaseModel

from agentmesh_agent_runtime.definitions.specs import Provider
from agentmesh_agent_runtime.models.assembly import ReplyAssembly, counted
from agentmesh_agent_runtime.models.endpoints import DEFAULT_CAPABILITIES, Endpoint
from agentmesh_agent_runtime.models.http_servers import HttpServers
from agentmesh_agent_runtime.models.output_formats import in_words
from agentmesh_agent_runtime.models.prompt_length import characters
from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, Piece, ReplySource
from agentmesh_agent_runtime.models.tool_schemas import arguments_of, schema_of
from agentmesh_agent_runtime.models.wire import objects
from agentmesh_agent_runtime.turns.failures import TurnFailure
from agentmesh_agent_runtime.turns.ports import Consumption

HOME = "http://localhost:11434"


class Servers(HttpServers):
    """See ModelServers. Which models there are only the server knows."""

    def known(self, model: str) -> ModelInfo | None:
        """See ModelServers."""
        return DEFAULT_CAPABILITIES

    def source(self, endpoint: Endpoint) -> ReplySource:
        """See ModelServers."""
        return OllamaReplySource(self, endpoint)


class OllamaReplySource:
    """A model behind a server of Ollama's wire format."""

    provider: str = Provider.OLLAMA

    def __init__(self, servers: HttpServers, endpoint: Endpoint) -> None:
        self._servers = servers
        self._endpoint = endpoint
        self._url = f"{(endpoint.base_url or HOME).rstrip('/')}/api/chat"
        self.model = endpoint.model
        self.info = endpoint.info(DEFAULT_CAPABILITIES)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource."""
        key = self._endpoint.api_key.get_secret_value()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        reader = _Reader(self._endpoint)
        body = _body(in_words(request), self._endpoint)
        failures = self._endpoint.failures
        async with self._servers.answer(self._url, body, headers, self._endpoint) as chunks:
            async for chunk in objects(chunks):
                for piece in failures.reading(reader.take, chunk):
                    yield piece
                if reader.failure is not None:
                    raise reader.failure
        yield reader.reply.finish(reader.usage, prompt_chars=characters(request.messages))


class _Reader:
    """Reads chunks into a reply."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.reply = ReplyAssembly(endpoint.model, endpoint.max_reply_chars)
        self.failure: TurnFailure | None = None
        self.usage: Consumption | None = None
        self._failures = endpoint.failures

    def take(self, chunk: dict[str, Any]) -> list[Piece]:
        """What a chunk adds; `failure` is set if it reports one."""
        if chunk.get("error"):
            self.failure = self._failures.in_stream(chunk["error"])
            return []
        reply = self.reply
        reply.call_itself(chunk.get("model"))
        message = chunk.get("message") or {}
        pieces = reply.think(message.get("thinking")) + reply.say(message.get("content"))
        for call in message.get("tool_calls") or ():
            function = call["function"]
            arguments = function.get("arguments") or {}
            pieces += reply.call(
                reply.calls,
                name=function["name"],
                arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
            )
        if chunk.get("done"):
            self._end(chunk)
        return pieces

    def _end(self, chunk: dict[str, Any]) -> None:
        reason = chunk.get("done_reason") or "stop"
        self.reply.finish_reason = "tool_calls" if self.reply.calls else reason
        self.usage = counted(chunk.get("prompt_eval_count"), chunk.get("eval_count"))


def _body(request: ModelRequest, endpoint: Endpoint) -> dict[str, Any]:
    extra = dict(endpoint.extra)
    options = dict(extra.pop("options", None) or {})
    if endpoint.temperature is not None:
        options.setdefault("temperature", endpoint.temperature)
    if endpoint.max_tokens is not None:
        options.setdefault("num_predict", endpoint.max_tokens)
    body: dict[str, Any] = {
        **extra,
        "model": endpoint.model,
        "messages": [turn for message in request.messages for turn in _turns(message)],
        "stream": True,
        "options": options,
    }
    # The API has no other way to forbid calls, and none to require one.
    if request.tools and request.tool_choice != "none":
        body["tools"] = [
            {"type": "function", "function": _function(schema_of(tool))} for tool in request.tools
        ]
    wanted = request.json_output
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        body["format"] = wanted.model_json_schema()
    elif wanted:
        body["format"] = "json"
    # A format would keep a model from calling tools: while it may, it is told in words alone.
    if request.output_schema is not None and "tools" not in body:
        body["format"] = dict(request.output_schema)
    return body


def _function(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": schema["name"],
        "description": schema.get("description") or "",
        "parameters": {"type": "object", **(schema.get("parameters") or {})},
    }


def _turns(message: LLMMessage) -> Iterable[dict[str, Any]]:
    if isinstance(message, SystemMessage):
        yield {"role": "system", "content": message.content}
    elif isinstance(message, UserMessage):
        parts = [message.content] if isinstance(message.content, str) else message.content
        said: dict[str, Any] = {"role": "user"}
        said["content"] = "\n".join(part for part in parts if isinstance(part, str))
        if images := [part.to_base64() for part in parts if isinstance(part, Image)]:
            said["images"] = images
        yield said
    elif isinstance(message, AssistantMessage):
        yield _assistant(message)
    elif isinstance(message, FunctionExecutionResultMessage):
        for result in message.content:
            yield {"role": "tool", "tool_name": result.name, "content": result.content}


def _assistant(message: AssistantMessage) -> dict[str, Any]:
    if isinstance(message.content, str):
        return {"role": "assistant", "content": message.content}
    calls = [
        {"function": {"name": call.name, "arguments": arguments_of(call.arguments)}}
        for call in message.content
    ]
    return {"role": "assistant", "content": message.thought or "", "tool_calls": calls}
