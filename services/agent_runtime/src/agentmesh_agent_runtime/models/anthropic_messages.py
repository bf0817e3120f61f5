"""Requests as Anthropic's messages API takes them.

AutoGen's client raises on tool arguments that are no JSON, and on tool calls in a history whose
request has no tools; here both reach the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal

from autogen_core import FunctionCall, Image
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResultMessage,
    LLMMessage,
    SystemMessage,
    UserMessage,
)
from pydantic import BaseModel

from agentmesh_agent_runtime.models.replies import ModelRequest
from agentmesh_agent_runtime.models.tool_schemas import arguments_of, schema_of
from agentmesh_agent_runtime.turns.images import ShownImage

Block = dict[str, Any]

_LEFT_OUT = "(Earlier messages are left out.)"
_GO_ON = "Continue."
_EMPTY = "(empty)"
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_-]")


class _CallIds:
    """The ids of calls as the API takes them: of few characters, and each for one call.

    Ids of other providers, which a fallback leaves in a history, are neither.
    """

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._newest: dict[str, str] = {}

    def called(self, call_id: str) -> str:
        """That of a call."""
        plain = _plain(call_id)
        unique, copy = plain, 1
        while unique in self._given:
            copy += 1
            unique = f"{plain}_{copy}"
        self._given.add(unique)
        self._newest[call_id] = unique
        return unique

    def answered(self, call_id: str) -> str:
        """That of the newest call of this id, for its result."""
        return self._newest.get(call_id, _plain(call_id))


def _plain(call_id: str) -> str:
    return _NOT_IN_AN_ID.sub("_", call_id) or "call"


def body_of(request: ModelRequest) -> dict[str, Any]:
    """`system`, `messages`, `tools` and `tool_choice` of a request."""
    body: dict[str, Any] = {"messages": _messages(request.messages, tools=bool(request.tools))}
    if system := _system(request):
        body["system"] = system
    if request.tools:
        body["tools"] = [_tool(schema_of(tool)) for tool in request.tools]
        body["tool_choice"] = _choice(request)
    return body


def continues_tool_use(request: ModelRequest) -> bool:
    """True if the model is being told the results of its calls."""
    return bool(request.messages) and isinstance(
        request.messages[-1], FunctionExecutionResultMessage
    )


def _system(request: ModelRequest) -> str:
    texts = [m.content for m in request.messages if isinstance(m, SystemMessage) and m.content]
    wanted = request.json_output
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        schema = json.dumps(wanted.model_json_schema())
        texts.append(f"Answer with JSON alone, valid under this schema: {schema}")
    elif wanted:
        texts.append("Answer with JSON alone.")
    return "\n\n".join(texts)


def _messages(messages: Iterable[LLMMessage], *, tools: bool) -> list[dict[str, Any]]:
    """Turns of user and assistant that alternate, begin and end with the user."""
    turns: list[dict[str, Any]] = []
    ids = _CallIds()
    for message in messages:
        if isinstance(message, SystemMessage):
            continue
        role: Literal["user", "assistant"] = (
            "assistant" if isinstance(message, AssistantMessage) else "user"
        )
        if not turns and role == "assistant":
            turns.append({"role": "user", "content": [_text(_LEFT_OUT)]})
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"] += _blocks(message, ids if tools else None)
    for turn in turns:
        turn["content"] = turn["content"] or [_text(_EMPTY)]
    if not turns or turns[-1]["role"] == "assistant":
        # Otherwise the model would write on in its own last message.
        turns.append({"role": "user", "content": [_text(_GO_ON)]})
    return turns


def _blocks(message: LLMMessage, ids: _CallIds | None) -> list[Block]:
    """Calls and their results are told in words where there are no `ids` for them."""
    if isinstance(message, UserMessage):
        parts = [message.content] if isinstance(message.content, str) else message.content
        return [_image(p) if isinstance(p, Image) else _text(p) for p in parts if _is_said(p)]
    if isinstance(message, AssistantMessage):
        if isinstance(message.content, str):
            return [_text(message.content)] if message.content.strip() else []
        thought = [_text(message.thought)] if (message.thought or "").strip() else []
        return thought + [_call(call, ids) for call in message.content]
    if isinstance(message, FunctionExecutionResultMessage):
        return [
            {
                "type": "tool_result",
                "tool_use_id": ids.answered(result.call_id),
                "content": result.content,
                "is_error": bool(result.is_error),
            }
            if ids is not None
            else _text(f"[{result.name} answered: {result.content}]")
            for result in message.content
        ]
    return []


def _is_said(part: str | Image) -> bool:
    return isinstance(part, Image) or bool(part.strip())


def _text(text: str | None) -> Block:
    return {"type": "text", "text": (text or "").rstrip()}


def _image(image: Image) -> Block:
    # What AutoGen itself hands out as base64 is a PNG, whatever it was made from.
    media_type = image.media_type if isinstance(image, ShownImage) else "image/png"
    source = {"type": "base64", "media_type": media_type, "data": image.to_base64()}
    return {"type": "image", "source": source}


def _call(call: FunctionCall, ids: _CallIds | None) -> Block:
    if ids is None:
        return _text(f"[called {call.name} with {call.arguments}]")
    arguments = arguments_of(call.arguments)
    return {"type": "tool_use", "id": ids.called(call.id), "name": call.name, "input": arguments}


def _tool(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": schema["name"],
        "description": schema.get("description") or "",
        "input_schema": {"type": "object", **(schema.get("parameters") or {})},
    }


def _choice(request: ModelRequest) -> dict[str, str]:
    choice = request.tool_choice
    if not isinstance(choice, str):
        return {"type": "tool", "name": choice.name}
    return {"type": {"required": "any"}.get(choice, choice)}
