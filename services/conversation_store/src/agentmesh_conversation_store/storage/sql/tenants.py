"""Tenants' limits, and what each has consumed of its day."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agentmesh_conversation_store.domain.changes import Changes
from agentmesh_conversation_store.domain.ledger import DAY, TenantDay, TenantPolicy
from agentmesh_conversation_store.domain.model import Instant, Run, RunStatus
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
_QUEUE = "SELECT tenant, count(*) FROM runs WHERE tenant = ? AND status = 1 GROUP BY tenant"
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
    """What one operation adds to its tenant's day, what it asks to reserve, if it does, and how
    many runs it begins that somebody asked for."""

    growth: TenantDay
    admission: Usage | None = None
    begins: int = 0


def wish(tenant: str, changes: Changes, before: Mapping[str, Run], at: Instant) -> Wish:
    """What these changes mean for the tenant's day. Reservations are those of its runs."""
    turns = reserved_tokens = reserved_cost = begins = 0
    for run in changes.runs:
        old = before.get(run.run_id)
        begins += old is None and not run.parent_run_id and run.status is RunStatus.RUNNABLE
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
    return Wish(growth, changes.admission, begins)


def admit(wishes: Sequence[Wish], at: Instant) -> Plan[Sequence[Rejection | None]]:
    """A refusal for each wish that does not fit into its tenant's day or queue.

    Where there is a daily budget or a bound of the queue, the days are locked from here to the
    commit, in order, so that replicas reserve one after the other.
    """
    refusals: list[Rejection | None] = [None] * len(wishes)
    asking = sorted({w.growth.tenant for w in wishes if w.admission is not None or w.begins})
    rows = yield from fetch_each(_POLICY, [(tenant,) for tenant in asking])
    policies = {p.tenant: p for p in map(POLICIES.value, rows) if _bounds(p)}
    if not policies:
        return refusals
    # Those that only grow are locked here too: later would be another order.
    growing = {w.growth.tenant for w in wishes if not w.growth.is_empty}
    locked = yield from fetch_each(
        _DAY + " FOR UPDATE", [(tenant,) for tenant in sorted(growing | policies.keys())]
    )
    days = {day.tenant: day.on(at) for day in map(DAYS.value, locked)}
    queues = yield from _queues(p for p in policies.values() if p.max_queued_runs is not None)
    for index, one in enumerate(wishes):
        tenant = one.growth.tenant
        if tenant not in policies:
            continue
        policy, day = policies[tenant], days.get(tenant, TenantDay(tenant).on(at))
        refusals[index] = (
            day.refusal(policy.daily_budget, one.admission, at)
            if one.admission is not None
            else policy.refusal_to_begin(day, queues.get(tenant, 0), at)
            if one.begins
            else None
        )
        if refusals[index] is None:
            days[tenant] = day.plus(one.growth)
            queues[tenant] = queues.get(tenant, 0) + one.begins
    return refusals


def _bounds(policy: TenantPolicy) -> bool:
    return policy.daily_budget != _UNLIMITED or policy.max_queued_runs is not None


def _queues(policies: Iterable[TenantPolicy]) -> Plan[dict[str, int]]:
    """How many runs of each of these tenants wait for a worker."""
    rows = yield from fetch_each(_QUEUE, [(policy.tenant,) for policy in policies])
    return {str(tenant): int(waiting) for tenant, waiting in rows}


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
