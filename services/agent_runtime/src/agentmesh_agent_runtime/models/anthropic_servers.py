"""Servers that speak Anthropic's messages API, their replies read from the wire.

AutoGen's client is not used: it takes a stream that breaks off for a whole reply, drops what a
model thinks beside its tool calls, and does not count what was read from the server's cache.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from autogen_core.models import ModelFamily, ModelInfo

from agentmesh_agent_runtime.definitions.specs import Provider
from agentmesh_agent_runtime.models.anthropic_messages import body_of, continues_tool_use
from agentmesh_agent_runtime.models.assembly import ReplyAssembly, counted
from agentmesh_agent_runtime.models.endpoints import Endpoint
from agentmesh_agent_runtime.models.http_servers import HttpServers
from agentmesh_agent_runtime.models.output_formats import in_words
from agentmesh_agent_runtime.models.prompt_length import characters
from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, Piece, ReplySource
from agentmesh_agent_runtime.models.wire import events
from agentmesh_agent_runtime.turns.failures import TurnFailure
from agentmesh_agent_runtime.turns.ports import Consumption

HOME = "https://api.anthropic.com"
VERSION = "2023-06-01"
MOST_TOKENS = 4096
"""Where nothing else is set, for the API insists on a number."""

_INFO = ModelInfo(
    vision=True,
    function_calling=True,
    json_output=True,
    family=ModelFamily.UNKNOWN,
    structured_output=False,
    multiple_system_messages=True,
)
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)


class Servers(HttpServers):
    """See ModelServers."""

    def known(self, model: str) -> ModelInfo | None:
        """See ModelServers. All models of Anthropic's can do the same, as far as we ask it."""
        return _INFO if model.startswith("claude-") else None

    def source(self, endpoint: Endpoint) -> ReplySource:
        """See ModelServers."""
        return AnthropicReplySource(self, endpoint)


class AnthropicReplySource:
    """A model behind a server of Anthropic's wire format."""

    provider: str = Provider.ANTHROPIC

    def __init__(self, servers: HttpServers, endpoint: Endpoint) -> None:
        self._servers = servers
        self._endpoint = endpoint
        self._url = f"{(endpoint.base_url or HOME).rstrip('/').removesuffix('/v1')}/v1/messages"
        self.model = endpoint.model
        self.info = endpoint.info(_INFO)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource."""
        failures = self._endpoint.failures
        reader = _Reader(self._endpoint)
        headers = {
            "anthropic-version": VERSION,
            "x-api-key": self._endpoint.api_key.get_secret_value(),
        }
        body = self._body(in_words(request))
        async with self._servers.answer(self._url, body, headers, self._endpoint) as chunks:
            async for event in events(chunks):
                for piece in failures.reading(reader.take, event):
                    yield piece
                if reader.failure is not None:
                    raise reader.failure
        yield reader.reply.finish(reader.usage(), prompt_chars=characters(request.messages))

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        endpoint = self._endpoint
        body: dict[str, Any] = {
            "max_tokens": endpoint.max_tokens or MOST_TOKENS,
            **endpoint.extra,
            **body_of(request),
            "model": self.model,
            "stream": True,
        }
        if "thinking" in body and continues_tool_use(request):
            # Its thoughts before the calls would have to come with them, and a history has none.
            del body["thinking"]
        if endpoint.temperature is not None and "thinking" not in body:
            body.setdefault("temperature", min(endpoint.temperature, 1.0))
        return body


class _Reader:
    """Reads events into a reply."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.reply = ReplyAssembly(endpoint.model, endpoint.max_reply_chars)
        self.failure: TurnFailure | None = None
        self._failures = endpoint.failures
        self._usage: dict[str, int] = {}
        self._miscounted = False
        # Blocks of tools that the server runs itself are streamed alike and are nobody's to answer.
        self._called: set[int] = set()

    def take(self, event: dict[str, Any]) -> list[Piece]:
        """What an event adds; `failure` is set if it reports one."""
        match event.get("type"):
            case "message_start":
                message = event["message"]
                self.reply.call_itself(message.get("model"))
                self._count(message.get("usage"))
            case "content_block_start":
                return self._begin(event["index"], event["content_block"])
            case "content_block_delta":
                return self._add(event["index"], event["delta"])
            case "message_delta":
                reason = event["delta"].get("stop_reason")
                if reason:
                    self.reply.finish_reason = _FINISH.get(reason, "stop")
                self._count(event.get("usage"))
            case "error":
                self.failure = self._failures.in_stream(event.get("error"))
        return []

    def usage(self) -> Consumption | None:
        """What the server counted, or None."""
        usage = self._usage
        if self._miscounted or "input_tokens" not in usage:
            return None
        cached = usage.get("cache_read_input_tokens", 0)
        written = usage.get("cache_creation_input_tokens", 0)
        asked = usage["input_tokens"] + cached + written
        return counted(asked, usage.get("output_tokens"), cached=cached)

    def _count(self, usage: dict[str, Any] | None) -> None:
        """Later counts replace earlier ones: all of them are totals. Null says nothing new."""
        for name in _COUNTS:
            count = (usage or {}).get(name)
            if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
                self._usage[name] = count
            elif count is not None:
                self._miscounted = True

    def _begin(self, index: int, block: dict[str, Any]) -> list[Piece]:
        if block["type"] == "tool_use":
            self._called.add(index)
            return self.reply.call(index, call_id=block["id"], name=block["name"])
        return self.reply.say(block.get("text")) + self.reply.think(block.get("thinking"))

    def _add(self, index: int, delta: dict[str, Any]) -> list[Piece]:
        match delta.get("type"):
            case "text_delta":
                return self.reply.say(delta.get("text"))
            case "thinking_delta":
                return self.reply.think(delta.get("thinking"))
            case "input_json_delta" if index in self._called:
                return self.reply.call(index, arguments=delta.get("partial_json") or "")
            case _:
                return []
