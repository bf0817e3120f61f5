"""How long a request is, where a model server does not say."""

from __future__ import annotations

from collections.abc import Sequence

from autogen_core import Image
from autogen_core.models import LLMMessage

from agentmesh_agent_runtime.definitions.tokens import IMAGE_TOKENS

CHARACTERS_PER_TOKEN = 4


def characters(messages: Sequence[LLMMessage]) -> int:
    """Characters of all messages; an image counts as many as its tokens would be in words."""
    return sum(_of(message) for message in messages)


def _of(message: LLMMessage) -> int:
    content = message.content
    if isinstance(content, str):
        return len(content)
    return sum(
        IMAGE_TOKENS * CHARACTERS_PER_TOKEN if isinstance(item, Image) else len(str(item))
        for item in content
    )
