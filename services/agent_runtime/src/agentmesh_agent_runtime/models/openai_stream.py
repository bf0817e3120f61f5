"""Replies of servers that speak OpenAI's chat completions, read from the wire.

AutoGen's client builds the request; its reader is not used, for it takes a stream that breaks off
for a whole reply, drops the cached and reasoning token counts, and spends most of its time building
objects for each chunk.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx2
import openai
from autogen_core.models import ModelInfo
from autogen_ext.models.openai import BaseOpenAIChatCompletionClient

from agentmesh_agent_runtime.models.errors import from_openai, from_stream_error
from agentmesh_agent_runtime.models.replies import Call, ModelReply, ModelRequest, Piece
from agentmesh_agent_runtime.turns.failures import ModelFailed, ModelRefused
from agentmesh_agent_runtime.turns.ports import Consumption, DeltaKind

CHARACTERS_PER_TOKEN = 4


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
        *,
        provider: str = "openai",
        max_reply_chars: int,
    ) -> None:
        self._connection = connection
        self._client = BaseOpenAIChatCompletionClient(
            connection, create_args=parameters, model_info=info
        )
        self._max_reply_chars = max_reply_chars
        self.provider = provider
        self.model: str = parameters["model"]
        self.info = info

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource."""
        parameters = self._client._process_create_args(
            request.messages, request.tools, request.tool_choice, request.json_output, {}
        )
        arguments = {
            **parameters.create_args,
            "messages": parameters.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if parameters.tools:
            arguments["tools"] = parameters.tools
        reply = _ReplyBuilder(self.model, self._max_reply_chars, self._connection.api_key)
        completions = self._connection.chat.completions
        try:
            async with completions.with_streaming_response.create(**arguments) as response:
                async for event in _events(response.iter_lines()):
                    for piece in reply.take(event):
                        yield piece
        except (openai.APIError, httpx2.HTTPError) as error:
            raise from_openai(error, self._connection.api_key) from error
        yield reply.finish(prompt_chars=_length(parameters.messages))


async def _events(lines: AsyncIterator[str]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of a stream of server-sent events."""
    async for line in lines:
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise ModelFailed("the model server sent a chunk that is no JSON") from error
        if not isinstance(event, dict):
            raise ModelFailed("the model server sent a chunk that is no object")
        yield event


class _ReplyBuilder:
    """Puts a reply together from its chunks."""

    def __init__(self, model: str, max_chars: int, api_key: str) -> None:
        self._model = model
        self._max_chars = max_chars
        self._api_key = api_key
        self._chars = 0
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._finish_reason = ""
        self._usage: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> list[Piece]:
        """What a chunk adds."""
        if event.get("error"):
            raise from_stream_error(event["error"], self._api_key)
        self._model = event.get("model") or self._model
        self._usage = event.get("usage") or self._usage
        pieces: list[Piece] = []
        for choice in (event.get("choices") or ())[:1]:
            delta = choice.get("delta") or {}
            reasoning = delta.get("reasoning_content") or delta.get("reasoning")
            if isinstance(reasoning, str) and reasoning:
                self._reasoning.append(reasoning)
                pieces.append(Piece(DeltaKind.REASONING, reasoning))
            if delta.get("content"):
                self._text.append(delta["content"])
                pieces.append(Piece(DeltaKind.TEXT, delta["content"]))
            for part in delta.get("tool_calls") or ():
                arguments = self._take_call(part)
                if arguments:
                    pieces.append(Piece(DeltaKind.TOOL_ARGUMENTS, arguments))
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        self._chars += sum(len(piece.text) for piece in pieces)
        if self._chars > self._max_chars:
            raise ModelRefused(
                f"the model's reply is longer than {self._max_chars} characters; set max_tokens"
            )
        return pieces

    def _take_call(self, part: dict[str, Any]) -> str:
        index = part.get("index")
        call = self._calls.setdefault(
            len(self._calls) if index is None else int(index),
            {"id": "", "name": "", "arguments": ""},
        )
        function = part.get("function") or {}
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):
            # Some servers send the arguments as an object.
            arguments = json.dumps(arguments)
        call["id"] += part.get("id") or ""
        call["name"] += function.get("name") or ""
        call["arguments"] += arguments
        return arguments

    def finish(self, prompt_chars: int) -> ModelReply:
        """The whole reply. Raises ModelFailed if the stream broke off or said nothing."""
        calls = tuple(
            Call(call["id"], call["name"], call["arguments"] or "{}")
            for _, call in sorted(self._calls.items())
        )
        text = "".join(self._text)
        if not self._finish_reason:
            raise ModelFailed("the model server broke off in the middle of its reply")
        if self._finish_reason == "content_filter":
            raise ModelRefused("the model server's content filter withheld the reply")
        if not calls and not text.strip():
            raise ModelFailed("the model answered with an empty reply")
        return ModelReply(
            text=text,
            calls=calls,
            reasoning="".join(self._reasoning),
            finish_reason=self._finish_reason,
            usage=self._consumption(prompt_chars),
            model=self._model,
        )

    def _consumption(self, prompt_chars: int) -> Consumption:
        if not self._usage:
            return Consumption(
                input_tokens=max(1, prompt_chars // CHARACTERS_PER_TOKEN),
                output_tokens=max(1, self._chars // CHARACTERS_PER_TOKEN),
                model_calls=1,
                estimated=True,
            )
        prompt = self._usage.get("prompt_tokens_details") or {}
        completion = self._usage.get("completion_tokens_details") or {}
        return Consumption(
            input_tokens=self._usage.get("prompt_tokens") or 0,
            output_tokens=self._usage.get("completion_tokens") or 0,
            cached_input_tokens=prompt.get("cached_tokens") or 0,
            reasoning_tokens=completion.get("reasoning_tokens") or 0,
            model_calls=1,
        )


def _length(messages: list[Any]) -> int:
    return sum(len(str(message.get("content") or "")) for message in messages)
