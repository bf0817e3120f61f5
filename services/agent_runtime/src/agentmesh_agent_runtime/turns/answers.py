"""Answers that have to fit an agent's output schema: judged, and asked for again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from autogen_core.models import AssistantMessage, LLMMessage, UserMessage

from agentmesh_agent_runtime.definitions.output_schemas import Flaw, Schema, fits, parsed
from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest

ATTEMPTS: Final = 3
"""How often a model is asked altogether for an answer that fits."""

CHECK_SECONDS: Final = 10.0
"""How long an answer may take to be checked."""

_SOURCE: Final = "agentmesh"


@dataclass(frozen=True)
class Verdict:
    """What a reply is under its schema: an answer with its data, as JSON, or one with a flaw."""

    data: str = ""
    flaw: Flaw | None = None


NOT_ASKED: Final = Verdict()
"""Of replies that are no answers, or need not fit anything."""


async def judge(reply: ModelReply, schema: Schema | None) -> Verdict:
    """Alike for equal replies, so that a replay judges as the first attempt did."""
    if schema is None or reply.calls:
        return NOT_ASKED
    if reply.finish_reason == "length":
        return Verdict(flaw=Flaw("$", "was cut off at the longest reply; raise max_tokens"))
    value, flaw = parsed(reply.text)
    if flaw is None:
        try:
            # Whose schema it is is not who else is served by this process.
            async with asyncio.timeout(CHECK_SECONDS):
                flaw = await asyncio.to_thread(fits, value, schema)
        except TimeoutError:
            flaw = Flaw("$", "takes too long to be checked", unchecked=True)
    return Verdict(data="" if flaw else json.dumps(value, ensure_ascii=False), flaw=flaw)


def again(request: ModelRequest, reply: ModelReply, flaw: Flaw) -> ModelRequest:
    """Asks for the answer once more, and for nothing but the answer."""
    said: Sequence[LLMMessage] = (
        AssistantMessage(content=reply.text or "(empty)", source=request.agent),
        UserMessage(
            content=f"This answer is refused at {flaw.where}: {flaw.why}. Answer again, with a "
            "JSON object alone that is valid under the schema.",
            source=_SOURCE,
        ),
    )
    return replace(request, messages=[*request.messages, *said], tools=(), tool_choice="none")
