"""Tables: usage, conversations, keys, health."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from agentmesh.common.v1 import usage_pb2
from agentmesh_client import ApiKey, Conversation, Grant
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentmesh_cli.rendering.terminal_text import one_line

_STATUS_STYLES = {
    "running": "cyan",
    "waiting": "yellow",
    "paused": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
}


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=_STATUS_STYLES.get(status, ""))


def print_usage(
    console: Console, by_speaker: Mapping[str, usage_pb2.Usage], total: usage_pb2.Usage
) -> None:
    """What each speaker consumed, and all of them together."""
    table = new_table("usage", "input tokens", "output tokens", "model calls", "tool calls")
    table.add_column("sandbox CPU", header_style="dim", no_wrap=True)
    for column in table.columns[1:]:
        column.justify = "right"
    priced = any(usage.cost_micros for usage in (*by_speaker.values(), total))
    if priced:
        table.add_column("cost", justify="right", header_style="dim", no_wrap=True)
    for speaker, usage in by_speaker.items():
        table.add_row(Text(speaker), *_usage_cells(usage, priced))
    table.add_row(Text("total", "bold"), *_usage_cells(total, priced))
    console.print(table)
    if total.estimated:
        console.print(Text("(estimated in part: a model server reported no usage)", "dim"))


def print_conversations(console: Console, conversations: Sequence[Conversation]) -> None:
    """One line for each conversation."""
    table = new_table("conversation", "status", "started", "agents", "task")
    for conversation in conversations:
        table.add_row(
            conversation.id,
            status_text(conversation.status),
            moment(conversation.started_at),
            Text(one_line(conversation.workflow or ", ".join(conversation.agents), 40)),
            Text(one_line(conversation.task, 60)),
        )
    console.print(table, soft_wrap=not console.is_terminal)


def print_keys(console: Console, keys: Sequence[ApiKey]) -> None:
    """One line for each API key."""
    table = new_table(
        "key", "tenant", "role", "created", "expires", "last used", "state", "scopes", "name"
    )
    for key in keys:
        table.add_row(
            key.id,
            Text(one_line(key.tenant, 40)),
            key.role,
            moment(key.created_at),
            moment(key.expires_at) if key.expires_at else "never",
            moment(key.last_used_at) if key.last_used_at else "never",
            _state(key),
            Text(one_line(" ".join(key.scopes) or "all", 80)),
            Text(one_line(key.name, 40)),
        )
    console.print(table, soft_wrap=not console.is_terminal)


def print_grants(console: Console, grants: Sequence[Grant]) -> None:
    """One line for each with whom a conversation is shared."""
    table = new_table("with", "access", "by", "since")
    for grant in grants:
        table.add_row(
            Text(one_line(grant.subject, 80) if grant.subject else f"every {grant.role}"),
            grant.access,
            Text(one_line(grant.granted_by, 80)),
            moment(grant.granted_at),
        )
    console.print(table, soft_wrap=not console.is_terminal)


def _state(key: ApiKey) -> Text:
    if key.revoked_at:
        return Text("revoked", "red")
    if key.expires_at and key.expires_at <= datetime.now(UTC):
        return Text("expired", "red")
    return Text("valid", "green")


def print_health(console: Console, status: str, services: Mapping[str, str], version: str) -> None:
    """The state of the mesh, service by service."""
    good = "healthy"
    console.print(
        Text.assemble(
            (one_line(status, 32), "green" if status == good else "red"),
            (f"  gateway {one_line(version, 32)}" if version else "", "dim"),
        )
    )
    table = new_table("service", "state")
    for name in sorted(services):
        state = one_line(services[name], 200)
        table.add_row(
            Text(one_line(name, 64)), Text(state, "green" if state == "serving" else "red")
        )
    console.print(table)


def moment(time: datetime | None) -> str:
    """A point in time in UTC, to the second; a dash if there is none."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if time else "-"


def new_table(*headings: str) -> Table:
    """A table without lines, whose cells are cut off rather than wrapped."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(
            heading, header_style="dim", no_wrap=heading != "task", overflow="ellipsis"
        )
    return table


def _usage_cells(usage: usage_pb2.Usage, priced: bool) -> list[str]:
    cells = [
        f"{usage.input_tokens:,}",
        f"{usage.output_tokens:,}",
        f"{usage.model_calls:,}",
        f"{usage.tool_calls:,}",
        f"{usage.sandbox_cpu_ms:,} ms",
    ]
    return [*cells, f"{usage.cost_micros / 1e6:.4f}"] if priced else cells
