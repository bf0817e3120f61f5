"""What the log and the subscribers hear of a model's reply."""

from __future__ import annotations

from enum import Enum

from agentmesh_agent_runtime.models.replies import ModelReply
from agentmesh_agent_runtime.turns.answers import Verdict
from agentmesh_agent_runtime.turns.ports import MessagePart, PartKind, SaidMessage, Speaker


class Telling(Enum):
    """What subscribers hear of a reply."""

    ALOUD = "aloud"
    AS_THOUGHT = "as a thought"
    NOT_AT_ALL = "not at all"


def messages_of(
    message_id: str, path: str, reply: ModelReply, verdict: Verdict, telling: Telling
) -> list[SaidMessage]:
    """The message of the agent at `path`, if anything is told. An answer that was refused is a
    thought, with the reason; one that fits its schema has its data beside the text."""
    if telling is Telling.NOT_AT_ALL:
        return []
    parts = []
    if reply.reasoning:
        parts.append(MessagePart(PartKind.REASONING, reply.reasoning))
    if reply.text:
        aloud = telling is Telling.ALOUD and verdict.flaw is None
        parts.append(MessagePart(PartKind.TEXT if aloud else PartKind.REASONING, reply.text))
    if verdict.flaw is not None:
        refused = f"This answer was refused at {verdict.flaw}"
        parts.append(MessagePart(PartKind.REASONING, refused))
    if verdict.data:
        parts.append(MessagePart(PartKind.DATA, verdict.data))
    parts += [
        MessagePart(PartKind.TOOL_CALL, call.arguments_json, call.tool, call.call_id)
        for call in reply.calls
    ]
    return [SaidMessage(message_id, Speaker.AGENT, path, tuple(parts))]


def notice_of(message_id: str, text: str) -> SaidMessage:
    """What the mesh itself says."""
    part = MessagePart(PartKind.TEXT, text)
    return SaidMessage(message_id, Speaker.SYSTEM, "agentmesh", (part,))
