"""The tool with which agents ask a person."""

from __future__ import annotations

import json
from typing import Final

from meshkit.builtin_tools import ASK_HUMAN

from agentmesh_agent_runtime.turns.grant import PersonsWord, Verdict
from agentmesh_agent_runtime.turns.ports import ToolOutput, ToolSchema

LONGEST_QUESTION: Final = 64 * 1024
"""Bytes; a limit of the store."""

QUESTION_SCHEMA: Final = ToolSchema(
    ASK_HUMAN,
    "Asks a person a question and waits for the answer, which may take long. For what only a "
    "person can know or decide.",
    {
        "type": "object",
        "properties": {
            "question": {
                "type": "string",
                "description": "With all it takes to answer it.",
            }
        },
        "required": ["question"],
        "additionalProperties": False,
    },
)


def question_of(arguments_json: str) -> str | None:
    """The question of a call; None if there is none that can be asked."""
    try:
        arguments = json.loads(arguments_json)
    except (ValueError, RecursionError):
        return None
    question = arguments.get("question") if isinstance(arguments, dict) else None
    if not isinstance(question, str) or not question.strip():
        return None
    return question if len(question.encode("utf-8", "replace")) <= LONGEST_QUESTION else None


def answer_to_model(word: PersonsWord) -> ToolOutput:
    """What the model is told of what a person said, or did not."""
    match word.verdict:
        case Verdict.ANSWERED:
            return ToolOutput(word.text, is_error=False)
        case Verdict.APPROVED:
            return ToolOutput(f"Yes. {word.text}".strip(), is_error=False)
        case Verdict.REJECTED:
            return ToolOutput(f"No. {word.text}".strip(), is_error=False)
        case _:
            return ToolOutput("Nobody answered in time.", is_error=True)
