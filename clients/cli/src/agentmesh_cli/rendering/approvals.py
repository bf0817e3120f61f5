"""What waits for a person: one line for each, or one with what led to it."""

import json
from collections.abc import Iterator, Sequence

from agentmesh_client import Approval
from rich.console import Console
from rich.text import Text

from agentmesh_cli.rendering.page import Page
from agentmesh_cli.rendering.tables import moment, new_table
from agentmesh_cli.rendering.terminal_text import one_line, strip_controls
from agentmesh_cli.rendering.tool_text import abridge_arguments
from agentmesh_cli.rendering.transcript import Transcript

_WIDTH = 15
_GUTTER = "  "


def print_approvals(console: Console, approvals: Sequence[Approval]) -> None:
    """One line for each."""
    table = new_table("approval", "status", "role", "expires", "agent", "what")
    for approval in approvals:
        table.add_row(
            approval.id,
            Text(approval.status, _style(approval)),
            approval.role,
            moment(approval.expires_at),
            Text(one_line(approval.agent, 40)),
            Text(_what(approval)),
        )
    console.print(table, soft_wrap=not console.is_terminal)


def print_approval(console: Console, approval: Approval) -> None:
    """All of one, below the messages that led to it."""
    page = Page(console, live=False)
    if approval.context:
        transcript = Transcript(page)
        for event in approval.context:
            transcript.show_event(event.raw)
        transcript.close()
        console.print()
    for label, text in _facts(approval):
        console.print(Text.assemble((f"{label:<{_WIDTH}}", "dim"), one_line(text, 10_000)))
    if approval.tool:
        _print_block(page, "arguments", _readable(approval.arguments_json))
    if approval.edited_arguments_json:
        _print_block(page, "edited to", _readable(approval.edited_arguments_json))
    _print_block(page, "what it says" if approval.tool else "question", approval.prompt)
    if approval.comment:
        _print_block(page, "comment", approval.comment)


def _facts(approval: Approval) -> Iterator[tuple[str, str]]:
    raw = approval.raw
    yield "approval", approval.id
    yield "conversation", approval.conversation_id
    yield "status", approval.status + (f" by {approval.principal}" if approval.principal else "")
    yield "agent", approval.agent
    if approval.tool:
        yield "tool", approval.tool
    yield "role", approval.role
    yield "asked", moment(approval.requested_at)
    yield (
        "expires",
        moment(approval.expires_at) + (", and is approved then" * raw.approve_on_expiry),
    )
    if raw.HasField("escalate_at"):
        yield "escalates", f"at {raw.escalate_at.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
    if approval.resolved_at:
        yield "resolved", moment(approval.resolved_at)


def _print_block(page: Page, label: str, text: str) -> None:
    page.line((label, "dim"))
    page.block(strip_controls(text), _GUTTER)


def _readable(arguments_json: str) -> str:
    """Arguments over several lines; as they are, if they are no JSON."""
    try:
        return json.dumps(json.loads(arguments_json), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments_json


def _what(approval: Approval) -> str:
    if approval.tool:
        return one_line(f"{approval.tool}({abridge_arguments(approval.arguments_json)})", 100)
    return one_line(approval.prompt, 100)


def _style(approval: Approval) -> str:
    return {"pending": "yellow", "rejected": "red", "expired": "red"}.get(approval.status, "green")
