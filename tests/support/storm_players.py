"""How the model plays the teams of storm_teams.yaml.

Every reply follows from what was asked alone and depends on all of it, so that context which was
lost, doubled or put in another order shows in what is said. The number that tells conversations
apart is the exception: conversations of one team say the same.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.model_server import Reply, ToolCall

TEAMS_FILE = Path(__file__).with_name("storm_teams.yaml")
TEAMS = (
    "storm_pair",
    "storm_both",
    "storm_chosen",
    "storm_relay",
    "storm_fan",
    "storm_cycle",
    "storm_ledger",
    "storm_nested",
    "storm_halves",
)
_MARK = re.compile(r"\[c\d+\]")
_FILLER = " and so on and so forth until it is said"
# Notes that it ran in a file of the workspace, then tells how often it did.
_EFFECT = """
with open("effects.log", "a") as log:
    log.write("KEY\\n")
with open("effects.log") as log:
    print("effect KEY ran", log.read().split().count("KEY"), "time(s)")
"""


def task_of(number: int) -> str:
    """The task of a conversation, which is found again in all that its model is asked."""
    return f"Begin. [c{number}]"


def mark_of(body: Mapping[str, Any]) -> str:
    """Which conversation asks."""
    return mark_in(_text_of(body))


def mark_in(text: str) -> str:
    """What tells the conversation of a text from others."""
    found = _MARK.search(text)
    return found[0] if found else ""


def unmarked(text: str) -> str:
    """Without what tells conversations apart."""
    return _MARK.sub("[c]", text)


def play(body: Mapping[str, Any]) -> Reply:
    """The reply to a request."""
    speaker = _speaker_of(body)
    if not speaker:
        return _choose(body)
    if speaker in ("alice", "bob"):
        return _relay(body, speaker)
    last = body["messages"][-1]
    if body.get("tools") and last["role"] != "tool":
        return _run(body, speaker)
    if speaker == "editor" and "coder sees" in _text_of(body):
        enough = _text_of(body).count("coder sees") >= 2
        return Reply(f"{'APPROVE' if enough else 'REVISE'} {_saying(body, speaker)}")
    return Reply(_saying(body, speaker))


def _speaker_of(body: Mapping[str, Any]) -> str:
    """Who asks; empty for what chooses between agents."""
    found = re.match(r"You are (\w+)\.$", str(body["messages"][0].get("content")))
    return found[1] if found else ""


def _text_of(body: Mapping[str, Any]) -> str:
    return "\n".join(str(m.get("content") or "") for m in body["messages"])


def _saying(body: Mapping[str, Any], speaker: str) -> str:
    seen = zlib.crc32(unmarked(_text_of(body)).encode())
    return f"{speaker} sees {len(body['messages'])} messages, {seen:08x},{_FILLER}"


def _run(body: Mapping[str, Any], speaker: str) -> Reply:
    """One program of the coder, two at once of the tester."""
    programs = ("x", "y") if speaker == "tester" else ("x",)
    keys = [f"{speaker}-{len(body['messages'])}-{program}" for program in programs]
    return Reply(
        tool_calls=tuple(
            ToolCall(
                "code_executor",
                json.dumps({"language": "python", "code": _EFFECT.replace("KEY", key)}),
                f"call_{key}",
            )
            for key in keys
        )
    )


def _relay(body: Mapping[str, Any], me: str) -> Reply:
    """Each speaks after it was handed to, and hands over when it has spoken."""
    if body["messages"][-1]["role"] == "tool":
        return Reply(_saying(body, me))
    if _text_of(body).count(" sees ") >= 4:
        return Reply("TERMINATE")
    spoken = sum(m["role"] == "assistant" and bool(m.get("content")) for m in body["messages"])
    other = "bob" if me == "alice" else "alice"
    if spoken % 2:
        call = ToolCall(f"transfer_to_{other}", "{}", f"call_{me}-{len(body['messages'])}")
        return Reply(tool_calls=(call,))
    return Reply(_saying(body, me))


def _choose(body: Mapping[str, Any]) -> Reply:
    """A selector's choice, or what an orchestrator is asked for."""
    text = _text_of(body)
    if "is_request_satisfied" in str(body["messages"][-1].get("content")):
        answers = text.count(" sees ")
        ledger = {
            "is_request_satisfied": answers >= 4,
            "is_in_loop": False,
            "is_progress_being_made": True,
            "next_speaker": ("writer", "coder")[answers % 2],
            "instruction_or_question": f"do part {answers}",
        }
        return Reply(json.dumps({k: {"reason": "r", "answer": v} for k, v in ledger.items()}))
    if text.startswith("Choose who speaks."):
        writer_first = text.count("\nwriter:") <= text.count("\ncoder:")
        return Reply("writer" if writer_first else "coder")
    return Reply("All is said." if "final answer" in text else "A plan, or facts.")
