"""Tool calls and their results in few words."""

import json

from agentmesh.conversation.v1 import message_pb2

from agentmesh_cli.rendering.terminal_text import one_line
from agentmesh_cli.rendering.words import word

_VALUE_LIMIT = 60
_ARGUMENTS_LIMIT = 160
_HEAD_LINES = 10
_TAIL_LINES = 20


def abridge_arguments(arguments_json: str) -> str:
    """The arguments of a call on one line: names, short values, and how long the long ones are."""
    try:
        arguments = json.loads(arguments_json or "{}")
    except ValueError:
        return one_line(arguments_json, _ARGUMENTS_LIMIT)
    if not isinstance(arguments, dict):
        return one_line(arguments_json, _ARGUMENTS_LIMIT)
    parts = [f"{one_line(str(name), 32)}={_abridge(value)}" for name, value in arguments.items()]
    return one_line(" ".join(parts), _ARGUMENTS_LIMIT)


def abridge_lines(text: str) -> str:
    """Long output without its middle."""
    lines = text.split("\n")
    left_out = len(lines) - _HEAD_LINES - _TAIL_LINES
    if left_out <= 1:
        return text
    middle = f"… {left_out} lines left out; --full shows all of them …"
    return "\n".join([*lines[:_HEAD_LINES], middle, *lines[-_TAIL_LINES:]])


def describe_outcome(result: message_pb2.ToolResultPart) -> str:
    """How a call ended: its outcome, exit status and why it was stopped, if it was."""
    words = [word(result, "outcome")]
    detail = result.detail.fields
    if "exit_code" in detail and detail["exit_code"].HasField("number_value"):
        words.append(f"exit status {int(detail['exit_code'].number_value)}")
    reason = detail["reason"].string_value if "reason" in detail else ""
    if reason and reason != "exited":
        words.append(one_line(reason, 80).replace("_", " "))
    if result.truncated:
        words.append("output cut off")
    return ", ".join(words)


def outcome_is_good(result: message_pb2.ToolResultPart) -> bool:
    """True if the tool did what it is for."""
    return result.outcome == message_pb2.TOOL_OUTCOME_OK


def _abridge(value: object) -> str:
    if not isinstance(value, str):
        return one_line(json.dumps(value, ensure_ascii=False), _VALUE_LIMIT)
    lines = value.count("\n") + 1
    shown = json.dumps(one_line(value, _VALUE_LIMIT), ensure_ascii=False)
    return f"{shown} ({lines} lines)" if lines > 1 else shown
