"""Who may be chosen next in a selector team."""

from __future__ import annotations

from collections.abc import Sequence

from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage


def critic_after_writer(messages: Sequence[BaseAgentEvent | BaseChatMessage]) -> list[str]:
    """After the writer the critic, after anybody else the writer."""
    return ["critic"] if messages and messages[-1].source == "writer" else ["writer"]
