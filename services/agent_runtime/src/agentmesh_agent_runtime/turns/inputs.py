"""What people said, as AutoGen's messages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from autogen_agentchat.messages import (
    BaseChatMessage,
    HandoffMessage,
    MultiModalMessage,
    TextMessage,
)
from autogen_core import Image
from autogen_core.models import UserMessage

from agentmesh_agent_runtime.definitions.specs import TeamKind, TeamSpec
from agentmesh_agent_runtime.turns.grant import Input
from agentmesh_agent_runtime.turns.outcome import utterances
from agentmesh_agent_runtime.turns.teams import LiveTeam
from agentmesh_agent_runtime.turns.termination import handed_out

_UNFIT_FOR_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


async def said_by_people(
    spec: TeamSpec, team: LiveTeam, inputs: Sequence[Input]
) -> list[BaseChatMessage]:
    """Inputs in their order. Where a swarm waits for somebody who is no member, their words give
    it back to the member that handed it over."""
    messages = [_message(said) for said in inputs]
    if spec.kind is TeamKind.SWARM and messages:
        heard = utterances(team.thread(await team.group.save_state()))
        asked_by = handed_out(spec, heard)
        if asked_by is not None:
            messages[0] = _handing_back(inputs[0], asked_by)
    return messages


def _message(said: Input) -> BaseChatMessage:
    if said.parts:
        return MultiModalMessage(content=_content(said), source=_name(said))
    return TextMessage(content=said.text, source=_name(said))


def _handing_back(said: Input, target: str) -> HandoffMessage:
    """Such a message is a text; images come with it as what its receiver is to know."""
    images = [part for part in _content(said) if isinstance(part, Image)]
    who = _name(said)
    context = [UserMessage(content=[*images], source=who)] if images else []
    return HandoffMessage(content=said.text, source=who, target=target, context=[*context])


def _content(said: Input) -> list[str | Image]:
    return [part if isinstance(part, str) else part.as_picture() for part in said.parts]


def _name(said: Input) -> str:
    return _UNFIT_FOR_A_NAME.sub("_", said.source) or "user"
