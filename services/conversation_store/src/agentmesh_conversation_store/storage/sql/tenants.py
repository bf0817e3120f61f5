"""Tenants' limits, and what each has consumed of its day."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agentmesh_conversation_store.domain.changes import Changes
from agentmesh_conversation_store.domain.ledger import DAY, TenantDay, TenantPolicy
from agentmesh_conversation_store.domain.model import Instant, Run
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.usage import Budget, Usage
from agentmesh_conversation_store.storage.requests import Request

from .plan import Alone, Plan, Row, each, fetch, fetch_each, first, now
from .requests import once
from .tables import DAYS, POLICIES

_UNLIMITED = Budget()
_ADDED = ("turns", "tokens", "cost_micros")
_HELD = ("reserved_tokens", "reserved_cost_micros")
_GROW = (
    f"INSERT INTO tenant_days ({DAYS.select}) VALUES ({', '.join('?' * len(DAYS.fields))})"
    " ON CONFLICT (tenant) DO UPDATE SET "
    # A new day begins at nothing; a straggler of the old one counts as of the new.
    + ", ".join(
        f"{name} = excluded.{name}"
        f" + CASE WHEN excluded.day > tenant_days.day THEN 0 ELSE tenant_days.{name} END"
        for name in _ADDED
    )
    + "".join(f", {name} = tenant_days.{name} + excluded.{name}" for name in _HELD)
    + ", day = CASE WHEN excluded.day > tenant_days.day THEN excluded.day"
    " ELSE tenant_days.day END"
)
_POLICY = f"SELECT {POLICIES.select} FROM tenant_policies WHERE tenant = ?"
_DAY = f"SELECT {DAYS.select} FROM tenant_days WHERE tenant = ?"


# --- policies --------------------------------------------------------------------------------


def policy(tenant: str) -> Plan[TenantPolicy]:
    """The tenant's limits; without any if nobody has set them."""
    row = yield from first(_POLICY, tenant)
    return POLICIES.value(row) if row else TenantPolicy(tenant)


def put_policy(
    wanted: TenantPolicy, etag: str, request: Request[TenantPolicy] | None
) -> Plan[TenantPolicy | bytes]:
    """Replaces the limits, if `etag` is empty or the current one."""

    def write() -> Plan[TenantPolicy]:
        yield Alone("tenant_policies")
        current = yield from policy(wanted.tenant)
        if etag and etag != current.etag:
            raise Rejection(
                Reason.ETAG_MISMATCH,
                f"the policy was changed meanwhile; it is {current.etag} now",
                current_etag=current.etag,
            )
        written = replace(wanted, version=current.version + 1)
        yield from each(POLICIES.put, [POLICIES.row(written)])
        if written.daily_budget != current.daily_budget:
            yield from _let_go_on(wanted.tenant)
        # The row is there before a budget is: whoever reserves can lock it.
        yield from each(_GROW, [DAYS.row(TenantDay(wanted.tenant))])
        return written

    return (yield from once(request, write))


def _let_go_on(tenant: str) -> Plan[None]:
    """Lets runs that wait for another day try again; so do those that wait for anything else."""
    at = yield from now()
    waiting = yield from fetch(
        "SELECT tenant, run_id FROM runs WHERE tenant = ? AND status = 1 AND runnable_at > ?"
        " ORDER BY run_id FOR UPDATE",
        tenant,
        at,
    )
    yield from each(
        "UPDATE runs SET runnable_at = ? WHERE tenant = ? AND run_id = ?",
        [(at, *key) for key in waiting],
    )


def with_retention() -> Plan[Sequence[str]]:
    """Tenants whose policy removes events."""
    rows = yield from fetch(
        "SELECT tenant FROM tenant_policies"
        " WHERE retention_age IS NOT NULL OR retention_events IS NOT NULL ORDER BY tenant"
    )
    return [tenant for (tenant,) in rows]


# --- days ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wish:
    """What one operation adds to its tenant's day, and what it asks to reserve, if it does."""

    growth: TenantDay
    admission: Usage | None = None


def wish(tenant: str, changes: Changes, before: Mapping[str, Run], at: Instant) -> Wish:
    """What these changes mean for the tenant's day. Reservations are those of its runs."""
    turns = reserved_tokens = reserved_cost = 0
    for run in changes.runs:
        old = before.get(run.run_id)
        turns += max(0, run.rounds - (old.rounds if old else 0))
        reserved_tokens += run.reserved.tokens - (old.reserved.tokens if old else 0)
        reserved_cost += run.reserved.cost_micros - (old.reserved.cost_micros if old else 0)
    growth = TenantDay(
        tenant,
        at - at % DAY,
        turns,
        sum(one.usage.tokens for one in changes.consumed),
        sum(one.usage.cost_micros for one in changes.consumed),
        reserved_tokens,
        reserved_cost,
    )
    return Wish(growth, changes.admission)


def admit(wishes: Sequence[Wish], at: Instant) -> Plan[Sequence[Rejection | None]]:
    """A refusal for each wish that does not fit into its tenant's day.

    Where there is a daily budget, the days are locked from here to the commit, in order, so that
    replicas reserve one after the other.
    """
    refusals: list[Rejection | None] = [None] * len(wishes)
    asking = sorted({w.growth.tenant for w in wishes if w.admission is not None})
    policies = map(POLICIES.value, (yield from fetch_each(_POLICY, [(t,) for t in asking])))
    budgets = {p.tenant: p.daily_budget for p in policies if p.daily_budget != _UNLIMITED}
    if not budgets:
        return refusals
    # Those that only grow are locked here too: later would be another order.
    growing = {w.growth.tenant for w in wishes if not w.growth.is_empty}
    locked = yield from fetch_each(
        _DAY + " FOR UPDATE", [(tenant,) for tenant in sorted(growing | budgets.keys())]
    )
    days = {day.tenant: day.on(at) for day in map(DAYS.value, locked)}
    for index, one in enumerate(wishes):
        tenant = one.growth.tenant
        if tenant not in budgets:
            continue
        day = days.get(tenant, TenantDay(tenant).on(at))
        if one.admission is not None:
            refusals[index] = day.refusal(budgets[tenant], one.admission, at)
        if refusals[index] is None:
            days[tenant] = day.plus(one.growth)
    return refusals


def grow(growths: Iterable[TenantDay]) -> Plan[None]:
    """Adds to the days of tenants, in their order."""
    sums: dict[str, TenantDay] = {}
    for growth in growths:
        known = sums.get(growth.tenant)
        sums[growth.tenant] = growth if known is None else known.plus(growth)
    rows = [DAYS.row(sums[tenant]) for tenant in sorted(sums) if not sums[tenant].is_empty]
    yield from each(_GROW, rows)


def queueing(tenants: Iterable[str], at: Instant) -> Plan[set[str]]:
    """Tenants whose limits let no run go on without asking the queue."""
    found = yield from fetch_each(_LIMITED, [(tenant,) for tenant in sorted(set(tenants))])
    return {limits.policy.tenant for limits in map(limits_of, found) if limits.strict(at)}


def room_of(tenants: Iterable[str], at: Instant) -> Plan[dict[str, int | None]]:
    """How many more runs may be granted to tenants; those without limits are left out."""
    found = yield from fetch_each(_LIMITED, [(tenant,) for tenant in sorted(set(tenants))])
    return {limits.policy.tenant: limits.room(at) for limits in map(limits_of, found)}


@dataclass(frozen=True, slots=True)
class Limits:
    """A tenant's limits beside what it has under way."""

    policy: TenantPolicy
    day: TenantDay
    at_work: int

    def room(self, at: Instant) -> int | None:
        """How many more runs may be granted; None: any number."""
        turns = self._turns_left(at)
        if self.policy.max_active_runs is None:
            return turns
        runs = max(0, self.policy.max_active_runs - self.at_work)
        return runs if turns is None else min(runs, turns)

    def strict(self, at: Instant) -> bool:
        """True if a run under way may not simply take its next turn. Turns are counted where
        they are granted."""
        limit = self.policy.max_active_runs
        too_many = limit is not None and self.at_work > limit
        return too_many or self._turns_left(at) is not None

    def _turns_left(self, at: Instant) -> int | None:
        return self.day.on(at).turns_left(self.policy.daily_budget, self.at_work)


LIMITS = (
    "(SELECT count(*) FROM runs r WHERE r.tenant = t.tenant AND r.status = 2),"
    f" {POLICIES.qualified('p')}, {DAYS.qualified('d')}"
)
JOINED = (
    " LEFT JOIN tenant_policies p ON p.tenant = t.tenant"
    " LEFT JOIN tenant_days d ON d.tenant = t.tenant"
)
_LIMITED = f"SELECT t.tenant, {LIMITS} FROM tenant_policies t{JOINED} WHERE t.tenant = ?"


def limits_of(row: Row) -> Limits:
    """From a row of the tenant and `LIMITS`."""
    tenant, at_work, *joined = row
    policy_row, day_row = joined[: len(POLICIES.fields)], joined[len(POLICIES.fields) :]
    return Limits(
        TenantPolicy(tenant) if policy_row[0] is None else POLICIES.value(policy_row),
        TenantDay(tenant) if day_row[0] is None else DAYS.value(day_row),
        at_work,
    )
