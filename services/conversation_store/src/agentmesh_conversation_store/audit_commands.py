"""`agentmesh-store audit`: lists records, and verifies that nobody changed them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from meshkit.settings import load_settings

from .auditing import Verdict, verify
from .domain.audit_chain import Head
from .domain.audit_keys import AuditKeys
from .domain.ledger import AuditQuery, AuditRecord
from .domain.model import SECOND
from .sealing import sealing_keys
from .settings import StoreSettings
from .storage.interface import Storage

audit = App(
    name="audit",
    help="The audit log, in the database of POSTGRES_URL or AGENTMESH_DATA_DIR.",
)
WithStorage = Callable[[StoreSettings, Callable[[Storage], Awaitable[None]]], None]
_MOST_LISTED = 10_000


def register(app: App, with_storage: WithStorage) -> None:
    """Adds the commands to `app`."""
    app.command(audit)

    @audit.command(name="list")
    def list_records(
        *,
        tenant: Annotated[str, Parameter(help='Whose records; "" for calls of nobody known.')],
        principal: Annotated[str, Parameter(help="Only this caller.")] = "",
        method: Annotated[str, Parameter(help="Only this method.")] = "",
        resource: Annotated[str, Parameter(help='Only this, for example "key:key_…".')] = "",
        code: Annotated[str, Parameter(help="Only this status code.")] = "",
        limit: Annotated[int, Parameter(help="At most this many.")] = 100,
    ) -> None:
        """Lists a tenant's audit records, newest first."""
        query = AuditQuery(
            max(1, min(limit, _MOST_LISTED)),
            principal=principal,
            method=method,
            resource=resource,
            code=code,
        )

        async def show(storage: Storage) -> None:
            for record in await storage.list_audit(tenant, query):
                print(_line(record))  # noqa: T201 - the command's output

        with_storage(load_settings(StoreSettings), show)

    @audit.command(name="verify")
    def verify_chains(
        *,
        heads: Annotated[
            Path | None,
            Parameter(
                help="A file of heads: compared with if there is one, written if all is well."
            ),
        ] = None,
    ) -> None:
        """Checks every tenant's chain; exits with 1 at the first broken place.

        A chain alone cannot show that its newest batches were cut off. Keep the file of --heads
        away from the database, or compare with the heads that the store logs.
        """
        settings = load_settings(StoreSettings)
        remembered = _remembered(heads)

        async def check(storage: Storage) -> None:
            verdicts = await verify(storage, AuditKeys(sealing_keys(settings)), remembered)
            for verdict in verdicts:
                print(_verdict(verdict))  # noqa: T201 - the command's output
            if any(verdict.problem for verdict in verdicts):
                raise SystemExit(1)
            if heads is not None:
                _remember(heads, verdicts)

        with_storage(settings, check)


def _line(record: AuditRecord) -> str:
    at = datetime.fromtimestamp(record.time / SECOND, UTC).isoformat(timespec="milliseconds")
    shown = (
        str(record.sequence or "-"),
        at,
        record.code,
        record.principal or "-",
        record.method,
        record.resource or "-",
        record.peer or "-",
        record.trace_id or "-",
    )
    return "  ".join("".join(c if c.isprintable() else "?" for c in str(part)) for part in shown)


def _verdict(verdict: Verdict) -> str:
    tenant = verdict.tenant or "(nobody known)"
    counts = f"{verdict.batches} batches, {verdict.records} records"
    if verdict.removed:
        counts += f", {verdict.removed} removed by retention"
    if verdict.unsealed:
        counts += f", {verdict.unsealed} not sealed yet"
    outcome = f"BROKEN: {verdict.problem}" if verdict.problem else f"ok, head {verdict.head}"
    return f"{tenant}: {counts}: {outcome}"


def _remembered(path: Path | None) -> dict[str, Head]:
    if path is None or not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text("utf-8"))
        return {
            str(tenant): Head(str(tenant), int(entry["number"]), str(entry["hash"]))
            for tenant, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise SystemExit(f"error: {path} is no file of heads: {error}") from None


def _remember(path: Path, verdicts: list[Verdict]) -> None:
    entries = {
        verdict.tenant: {"number": verdict.head.number, "hash": verdict.head.hash}
        for verdict in verdicts
        if verdict.head.number
    }
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", "utf-8")
    draft.replace(path)
