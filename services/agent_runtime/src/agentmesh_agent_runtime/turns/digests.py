"""What a step's request is known by, so that a replay can be told from something new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autogen_core import Image
from autogen_core.models import LLMMessage, UserMessage

from agentmesh_agent_runtime.definitions.specs import LlmSettings
from agentmesh_agent_runtime.turns.images import StoredImage


def model_request(
    messages: Sequence[LLMMessage],
    tools: Sequence[Any],
    tool_choice: Any,
    json_output: Any,
    settings: LlmSettings,
    output_schema: Mapping[str, Any] | None = None,
) -> bytes:
    """SHA-256 over a model request: messages, images, names of tools, and the pinned settings.

    What the operator may change under way is left out (a tool's wording, the default model, a
    key), or every redeployment would end the runs that are in the middle of a turn.
    """
    digest = hashlib.sha256(b"model/1\0")
    for message in messages:
        digest.update(_written(message).encode())
        digest.update(b"\0")
    for tool in tools:
        digest.update(str(tool["name"] if isinstance(tool, dict) else tool.name).encode() + b"\0")
    choice = tool_choice if isinstance(tool_choice, str) else tool_choice.name
    digest.update(f"{choice}\0{json_output!r}\0{settings.model_dump_json()}".encode())
    if output_schema is not None:
        digest.update(b"\0" + json.dumps(output_schema, sort_keys=True).encode())
    return digest.digest()


def _written(message: LLMMessage) -> str:
    """As JSON. An image is known by the digest of its bytes, whatever a library makes of them."""
    if isinstance(message, UserMessage) and not isinstance(message.content, str):
        parts = [part if isinstance(part, str) else _image(part) for part in message.content]
        return json.dumps([parts, message.source])
    return message.model_dump_json()


def _image(image: Image) -> dict[str, str]:
    stored = StoredImage.of_picture(image)
    if stored is not None:
        return {name: str(value) for name, value in asdict(stored).items()}
    pixels = hashlib.sha256(image.image.tobytes())
    return {"pixels": pixels.hexdigest(), "size": str(image.image.size)}


def run_request(team_id: str, task: str) -> bytes:
    """SHA-256 over the request for a run of a team's own."""
    return hashlib.sha256(f"run/1\0{team_id}\0{task}".encode()).digest()


def own_answer(tool: str, arguments_json: str) -> bytes:
    """SHA-256 over a tool call that is answered here: refused, or a handoff."""
    return hashlib.sha256(f"refusal/1\0{tool}\0{arguments_json}".encode()).digest()
