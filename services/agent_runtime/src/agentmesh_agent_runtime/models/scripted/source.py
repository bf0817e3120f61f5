"""The scripted model: answers by the rules of a file, word by word, without any server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator

from autogen_core.models import LLMMessage, ModelFamily, ModelInfo, UserMessage

from agentmesh_agent_runtime.models.replies import Call, ModelReply, ModelRequest, Piece
from agentmesh_agent_runtime.models.scripted.matching import Match, Scene, first_match
from agentmesh_agent_runtime.models.scripted.rules import Script
from agentmesh_agent_runtime.turns.ports import Consumption, DeltaKind

MODEL = "scripted"
_WORDS = re.compile(r"\s*\S+\s*$|\s*\S+")
_NO_RULE = "no prepared reply"


class ScriptedReplySource:
    """See ReplySource. `word_delay` is the pause after each word, in seconds."""

    provider = MODEL
    model = MODEL
    info = ModelInfo(
        vision=False,
        function_calling=True,
        json_output=False,
        family=ModelFamily.UNKNOWN,
        structured_output=False,
        multiple_system_messages=True,
    )

    def __init__(self, script: Script, *, word_delay: float = 0.0) -> None:
        self._script = script
        self._word_delay = word_delay

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource; never fails."""
        match = first_match(self._script.rules, Scene.of(request))
        reply = _generic_reply(request) if match is None else self._reply(match, request)
        for kind, text in (
            (DeltaKind.REASONING, reply.reasoning),
            (DeltaKind.TEXT, reply.text),
            *((DeltaKind.TOOL_ARGUMENTS, call.arguments_json) for call in reply.calls),
        ):
            for word in _WORDS.findall(text):
                await asyncio.sleep(self._word_delay)
                yield Piece(kind, word)
        yield reply

    def _reply(self, match: Match, request: ModelRequest) -> ModelReply:
        rule, file = match.rule, self._script.file
        calls = tuple(
            Call(
                call_id=_call_id(request, index),
                tool=call.tool,
                arguments_json=json.dumps(match.fill_all(call.arguments, file)),
            )
            for index, call in enumerate(rule.call)
        )
        return _counted(
            request,
            ModelReply(
                text=match.fill(rule.say, file).strip(),
                calls=calls,
                reasoning=match.fill(rule.think, file).strip(),
                finish_reason="tool_calls" if calls else "stop",
                model=MODEL,
            ),
        )


def _generic_reply(request: ModelRequest) -> ModelReply:
    """Says what this model is. Ends the conversation when it says so for the second time."""
    if any(_NO_RULE in _said_by(message, request.agent) for message in request.messages):
        text = f"The scripted model has {_NO_RULE} here either, so the conversation ends. TERMINATE"
    else:
        text = (
            f"This is the scripted model, playing {request.role or request.agent}. It has "
            f"{_NO_RULE} here: set OPENAI_API_KEY to use a real model, or add a rule to the file "
            "that AGENTMESH_SCRIPT_FILE names."
        )
    return _counted(request, ModelReply(text=text, finish_reason="stop", model=MODEL))


def _said_by(message: LLMMessage, agent: str) -> str:
    if isinstance(message, UserMessage) or getattr(message, "source", "") != agent:
        return ""
    return message.content if isinstance(message.content, str) else ""


def _call_id(request: ModelRequest, index: int) -> str:
    """The same for the same request, so that a repeated one is recognised."""
    seed = hashlib.sha256(f"{request.agent}\0{request.round}\0{index}".encode())
    for message in request.messages:
        seed.update(message.model_dump_json().encode())
    return f"call_{seed.hexdigest()[:24]}"


def _counted(request: ModelRequest, reply: ModelReply) -> ModelReply:
    """The reply with its usage, counted in words."""
    asked = sum(len(str(message.content).split()) for message in request.messages)
    said = sum(
        len(text.split())
        for text in (reply.reasoning, reply.text, *(c.arguments_json for c in reply.calls))
    )
    return ModelReply(
        text=reply.text,
        calls=reply.calls,
        reasoning=reply.reasoning,
        finish_reason=reply.finish_reason,
        usage=Consumption(input_tokens=asked, output_tokens=said, model_calls=1),
        model=reply.model,
    )
