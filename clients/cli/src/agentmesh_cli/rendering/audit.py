"""Audit records for people."""

from collections.abc import Sequence
from datetime import UTC

from agentmesh.conversation_store.v1.ledger_service_pb2 import AuditRecord
from rich.console import Console
from rich.text import Text

from agentmesh_cli.rendering.tables import moment, new_table
from agentmesh_cli.rendering.terminal_text import one_line


def print_audit(console: Console, records: Sequence[AuditRecord]) -> None:
    """A table, newest first."""
    if not records:
        console.print("no audit records")
        return
    table = new_table("time", "code", "who", "method", "on what", "from where", "trace")
    for record in records:
        good = record.code in ("OK", "STARTED")
        table.add_row(
            moment(record.time.ToDatetime(tzinfo=UTC)),
            Text(one_line(record.code, 32), "green" if good else "red"),
            one_line(record.principal, 64) or "-",
            one_line(record.method.rpartition(".")[2], 64),
            one_line(record.resource, 64) or "-",
            one_line(record.peer, 48) or "-",
            one_line(record.trace_id, 32) or "-",
        )
    console.print(table)
