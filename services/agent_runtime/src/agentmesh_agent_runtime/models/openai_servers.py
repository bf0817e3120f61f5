"""Servers that speak OpenAI's chat completions, their replies read from the wire.

AutoGen's client builds the request; its reader is not used, for it takes a stream that breaks off
for a whole reply, drops the cached and reasoning token counts, and spends most of its time building
objects for each chunk.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx2
import openai
from autogen_core.models import ModelFamily, ModelInfo
from autogen_ext.models.openai import BaseOpenAIChatCompletionClient, _model_info
from openai.lib._parsing import type_to_response_format_param
from pydantic import BaseModel

from agentmesh_agent_runtime.definitions.specs import Provider
from agentmesh_agent_runtime.models.assembly import ReplyAssembly, counted
from agentmesh_agent_runtime.models.endpoints import DEFAULT_CAPABILITIES, Endpoint
from agentmesh_agent_runtime.models.errors import ServerFailures
from agentmesh_agent_runtime.models.output_formats import in_words, response_format
from agentmesh_agent_runtime.models.prompt_length import characters
from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, Piece, ReplySource
from agentmesh_agent_runtime.models.wire import events
from agentmesh_agent_runtime.turns.failures import TurnFailure
from agentmesh_agent_runtime.turns.ports import Consumption

HOME = "https://api.openai.com/v1"
"""Said outright, or the client library would read OPENAI_BASE_URL for every profile."""

_THINKERS = (ModelFamily.O1, ModelFamily.O3, ModelFamily.O4, ModelFamily.GPT_5)
_NO_KEY = "none"
"""What a server that wants no key is given, for the client library insists on one."""


class Servers:
    """See ModelServers."""

    provider = Provider.OPENAI

    def __init__(self) -> None:
        self._connections: dict[tuple[str, str], openai.AsyncOpenAI] = {}

    def known(self, model: str) -> ModelInfo | None:
        """See ModelServers."""
        try:
            return _model_info.get_info(model)
        except (KeyError, ValueError):
            return None

    def source(self, endpoint: Endpoint) -> ReplySource:
        """See ModelServers."""
        info = endpoint.info(self.known(endpoint.model) or DEFAULT_CAPABILITIES)
        return OpenAIReplySource(
            self._connection(endpoint),
            info,
            _parameters(endpoint, thinks=info["family"] in _THINKERS),
            endpoint.failures,
            provider=self.provider,
            max_reply_chars=endpoint.max_reply_chars,
        )

    async def close(self) -> None:
        """See ModelServers."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()

    def connect(self, base_url: str, api_key: str) -> openai.AsyncOpenAI:
        """A new connection, which asks once and leaves it to others to ask again."""
        return openai.AsyncOpenAI(api_key=api_key, base_url=base_url or HOME, max_retries=0)

    def _connection(self, endpoint: Endpoint) -> openai.AsyncOpenAI:
        """The one to the model's server, whatever else an agent sets."""
        base_url = endpoint.base_url or _home(endpoint.model)
        api_key = endpoint.api_key.get_secret_value() or _NO_KEY
        connection = self._connections.get((base_url, api_key))
        if connection is None:
            connection = self.connect(base_url, api_key)
            self._connections[base_url, api_key] = connection
        return connection


class OpenAIReplySource:
    """A model behind a server of the OpenAI wire format.

    `parameters` go with every request; among them is the `model`. `max_reply_chars` bounds what one
    reply may hold, in characters. The connection is shared and stays open.
    """

    def __init__(
        self,
        connection: openai.AsyncOpenAI,
        info: ModelInfo,
        parameters: dict[str, Any],
        failures: ServerFailures,
        *,
        provider: str,
        max_reply_chars: int,
    ) -> None:
        self._connection = connection
        self._client = BaseOpenAIChatCompletionClient(
            connection, create_args=parameters, model_info=info
        )
        self._failures = failures
        self._max_reply_chars = max_reply_chars
        self.provider = provider
        self.model: str = parameters["model"]
        self.info = info

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource."""
        reader = _Reader(ReplyAssembly(self.model, self._max_reply_chars), self._failures)
        create = self._connection.chat.completions.with_streaming_response.create
        try:
            async with create(**self._arguments(request)) as response:
                async for event in events(response.iter_bytes()):
                    for piece in self._failures.reading(reader.take, event):
                        yield piece
        except (openai.APIError, httpx2.HTTPError) as error:
            raise _sorted(self._failures, error) from error
        yield reader.reply.finish(reader.usage, prompt_chars=characters(request.messages))

    def _arguments(self, request: ModelRequest) -> dict[str, Any]:
        """What the server is asked with. What it is not held to it is told in words."""
        schema, wanted = request.output_schema, request.json_output
        if not self.info["structured_output"]:
            if isinstance(wanted, type) and issubclass(wanted, BaseModel):
                request = replace(request, output_schema=wanted.model_json_schema())
                wanted = self.info["json_output"] or None
            request = in_words(request)
        parameters = self._client._process_create_args(
            request.messages, request.tools, request.tool_choice, wanted, {}
        )
        # What is long goes as it stands: the library would look at every field of every message.
        body = {**parameters.create_args.get("extra_body", {}), "messages": parameters.messages}
        if parameters.tools:
            body["tools"] = parameters.tools
        arguments = {
            **parameters.create_args,
            "messages": [],
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_body": body,
        }
        if parameters.response_format is not None:
            arguments["response_format"] = type_to_response_format_param(parameters.response_format)
        if schema is not None and self.info["structured_output"]:
            arguments["response_format"] = response_format(schema)
        elif schema is not None and self.info["json_output"]:
            arguments["response_format"] = {"type": "json_object"}
        return arguments


class _Reader:
    """Reads chunks into a reply."""

    def __init__(self, reply: ReplyAssembly, failures: ServerFailures) -> None:
        self.reply = reply
        self.usage: Consumption | None = None
        self._failures = failures

    def take(self, event: dict[str, Any]) -> list[Piece]:
        """What a chunk adds."""
        if event.get("error"):
            raise self._failures.in_stream(event["error"])
        reply = self.reply
        reply.call_itself(event.get("model"))
        if isinstance(usage := event.get("usage"), dict) and usage:
            self.usage = _consumption(usage)
        pieces: list[Piece] = []
        for choice in (event.get("choices") or ())[:1]:
            delta = choice.get("delta") or {}
            pieces += reply.think(delta.get("reasoning_content") or delta.get("reasoning"))
            pieces += reply.say(delta.get("content"))
            for part in delta.get("tool_calls") or ():
                pieces += self._take_call(part)
            reply.finish_reason = choice.get("finish_reason") or reply.finish_reason
        return pieces

    def _take_call(self, part: dict[str, Any]) -> list[Piece]:
        index = part.get("index")
        function = part.get("function") or {}
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):
            # Some servers send the arguments as an object.
            arguments = json.dumps(arguments)
        return self.reply.call(
            self.reply.calls if index is None else int(index),
            call_id=part.get("id") or "",
            name=function.get("name") or "",
            arguments=arguments,
        )


def _parameters(endpoint: Endpoint, *, thinks: bool) -> dict[str, Any]:
    """What every request of such an agent says besides its messages."""
    parameters: dict[str, Any] = {
        "model": endpoint.model,
        "timeout": httpx2.Timeout(endpoint.reply_timeout, connect=endpoint.connect_timeout),
    }
    if endpoint.temperature is not None and not thinks:
        parameters["temperature"] = endpoint.temperature
    if endpoint.max_tokens is not None:
        parameters["max_completion_tokens" if thinks else "max_tokens"] = endpoint.max_tokens
    if endpoint.extra:
        parameters["extra_body"] = dict(endpoint.extra)
    return parameters


def _home(name: str) -> str:
    """The server of a model that AutoGen knows to be somebody else's than OpenAI's, or ""."""
    homes = {
        "gemini-": _model_info.GEMINI_OPENAI_BASE_URL,
        "claude-": _model_info.ANTHROPIC_OPENAI_BASE_URL,
        "Llama-": _model_info.LLAMA_API_BASE_URL,
    }
    return next((url for prefix, url in homes.items() if name.startswith(prefix)), "")


def _consumption(usage: dict[str, Any]) -> Consumption | None:
    prompt = usage.get("prompt_tokens_details")
    completion = usage.get("completion_tokens_details")
    return counted(
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        cached=prompt.get("cached_tokens") if isinstance(prompt, dict) else 0,
        reasoning=completion.get("reasoning_tokens") if isinstance(completion, dict) else 0,
    )


def _sorted(failures: ServerFailures, error: openai.APIError | httpx2.HTTPError) -> TurnFailure:
    if isinstance(error, openai.APIStatusError):
        said = _message_of(error)
        return failures.status(error.status_code, error.response.headers, said, error.code)
    if isinstance(error, (openai.APITimeoutError, httpx2.TimeoutException)):
        return failures.timeout()
    if isinstance(error, (openai.APIConnectionError, httpx2.TransportError)):
        return failures.connection(error.__cause__ or error)
    return failures.unusable(error)


def _message_of(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        nested = body.get("error")
        if isinstance(nested, dict):
            body = nested
        return str(body.get("message") or error.message)
    return error.message
