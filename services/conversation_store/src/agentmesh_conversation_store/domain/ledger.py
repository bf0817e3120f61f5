"""What a tenant consumed, what it may consume, and who did what."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from .access import SYSTEM, Caller
from .copying import replace
from .model import SECOND, Instant, Micros, Visibility
from .rejections import Reason, Rejection
from .usage import Budget, Usage

HOUR: Micros = 3600 * SECOND
DAY: Micros = 24 * HOUR
_QUEUE_RETRY_SECONDS = 5.0


class Dimension(IntEnum):
    """What usage is summed by."""

    TOTAL = 1
    DAY = 2
    AGENT = 3
    CONVERSATION = 4
    MODEL = 5


@dataclass(frozen=True, slots=True)
class Consumed:
    """Usage as it is booked. Agent and model are empty where nobody can tell."""

    conversation_id: str
    at: Instant
    usage: Usage
    agent: str = ""
    model: str = ""

    @property
    def hour(self) -> Instant:
        """The beginning of its hour."""
        return self.at - self.at % HOUR


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Usage by the key of a dimension; for days the key is the instant at which they begin."""

    key: str | Instant
    usage: Usage


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """A page of sums over the hours that begin in [since, until), keys after `after`. Callers who
    may not read all see what conversations that they may read have consumed."""

    dimension: Dimension
    limit: int
    since: Instant | None = None
    until: Instant | None = None
    after: str | Instant | None = None
    caller: Caller = SYSTEM


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """Limits of a tenant; None and the empty budget limit nothing.

    `daily_budget` bounds what one day (UTC) consumes, `max_active_runs` runs under a lease at
    once, `max_queued_runs` those that wait for one. The gateway enforces those of requests and
    streams, and has defaults for them. `default_visibility` is that of what is started. `version`
    is 0 while nobody has written one.
    """

    tenant: str
    max_active_runs: int | None = None
    daily_budget: Budget = field(default_factory=Budget)
    retention_age: Micros | None = None
    retention_events: int | None = None
    max_queued_runs: int | None = None
    requests_per_second: int | None = None
    requests_per_second_per_principal: int | None = None
    max_open_streams: int | None = None
    max_open_streams_per_principal: int | None = None
    default_visibility: Visibility = Visibility.PRIVATE
    version: int = 0

    @property
    def etag(self) -> str:
        """Changes with every write."""
        return f"v{self.version}"

    def refusal_to_begin(self, day: TenantDay, queued: int, now: Instant) -> Rejection | None:
        """Why no run can begin while `queued` wait and the day stands like this; None if it can."""
        spent = day.spent(self.daily_budget, now)
        if spent is not None or self.max_queued_runs is None or queued < self.max_queued_runs:
            return spent
        refusal = Rejection(
            Reason.QUOTA_EXCEEDED,
            f'"{self.tenant}" has {queued} of {self.max_queued_runs} runs waiting for a worker',
        )
        refusal.quota = (f"tenant:{self.tenant}", f"{self.max_queued_runs} runs waiting at once")
        refusal.retry_after = _QUEUE_RETRY_SECONDS
        return refusal


@dataclass(frozen=True, slots=True)
class TenantDay:
    """What a tenant has consumed of the day that began at `day`, and what open steps reserve.

    Added to another, it is the growth of one transaction.
    """

    tenant: str
    day: Instant = 0
    turns: int = 0
    tokens: int = 0
    cost_micros: int = 0
    reserved_tokens: int = 0
    reserved_cost_micros: int = 0

    def on(self, now: Instant) -> TenantDay:
        """The same as it counts now: consumption of an earlier day does not."""
        today = now - now % DAY
        if today <= self.day:
            return self
        return replace(self, day=today, turns=0, tokens=0, cost_micros=0)

    def plus(self, growth: TenantDay) -> TenantDay:
        """Both together; of the same day."""
        return replace(
            self,
            turns=self.turns + growth.turns,
            tokens=self.tokens + growth.tokens,
            cost_micros=self.cost_micros + growth.cost_micros,
            reserved_tokens=self.reserved_tokens + growth.reserved_tokens,
            reserved_cost_micros=self.reserved_cost_micros + growth.reserved_cost_micros,
        )

    @property
    def is_empty(self) -> bool:
        """True if it adds nothing to another one."""
        return not (
            self.turns
            or self.tokens
            or self.cost_micros
            or self.reserved_tokens
            or self.reserved_cost_micros
        )

    def refusal(self, budget: Budget, reservation: Usage, now: Instant) -> Rejection | None:
        """Why this reservation does not fit into the day any more; None if it does."""
        bounds = (
            ("tokens", budget.max_tokens, self.tokens + self.reserved_tokens, reservation.tokens),
            (
                "cost micros",
                budget.max_cost_micros,
                self.cost_micros + self.reserved_cost_micros,
                reservation.cost_micros,
            ),
        )
        for measure, bound, held, wanted in bounds:
            if bound is not None and (held >= bound or held + wanted > bound):
                return day_is_over(self.tenant, f"{held} of {bound} {measure}", now)
        return None

    def spent(self, budget: Budget, now: Instant) -> Rejection | None:
        """Why nothing new begins in this day any more; None if it does. What is only reserved may
        come back."""
        bounds = (
            ("turns", budget.max_turns, self.turns),
            ("tokens", budget.max_tokens, self.tokens),
            ("cost micros", budget.max_cost_micros, self.cost_micros),
        )
        for measure, bound, held in bounds:
            if bound is not None and held >= bound:
                return day_is_over(self.tenant, f"{held} of {bound} {measure}", now)
        return None

    def turns_left(self, budget: Budget, at_work: int) -> int | None:
        """How many more turns may be given out while `at_work` are under way; None: any number."""
        open_tokens = self.tokens + self.reserved_tokens
        open_cost = self.cost_micros + self.reserved_cost_micros
        if budget.max_tokens is not None and open_tokens >= budget.max_tokens:
            return 0
        if budget.max_cost_micros is not None and open_cost >= budget.max_cost_micros:
            return 0
        if budget.max_turns is None:
            return None
        return max(0, budget.max_turns - self.turns - at_work)


def day_is_over(tenant: str, used: str, now: Instant) -> Rejection:
    """The tenant's daily budget leaves no room; it is a new one at midnight UTC."""
    refusal = Rejection(
        Reason.BUDGET_EXHAUSTED,
        f'"{tenant}" used or reserved {used} of the day',
        budget="tenant_day",
    )
    refusal.quota = (f"tenant:{tenant}", f"the daily budget: {used}")
    refusal.retry_after = (DAY - now % DAY) / SECOND
    return refusal


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One thing that somebody did. `code` is the name of a status code, "STARTED" of what was about
    to be done, or "GAP" where records were lost; `sequence` is 0 until it is sealed, and -1 if it
    is put aside: the sealer found that the store did not write it like this."""

    tenant: str
    record_id: str
    time: Instant
    principal: str
    method: str
    resource: str
    code: str
    peer: str
    trace_id: str = ""
    request_id: str = ""
    sequence: int = 0
    mac: bytes = field(default=b"", compare=False, repr=False)
    """Who wrote it, see `AuditKeys`."""

    def at(self, sequence: int) -> AuditRecord:
        """The same, at its place in its tenant's chain."""
        return replace(self, sequence=sequence)

    @property
    def marked_bytes(self) -> bytes:
        """What a mark covers: everything but the place, so that no two records look alike. A text
        with NUL counts as Postgres keeps it."""
        texts = (
            self.tenant,
            self.record_id,
            str(self.time),
            self.principal,
            self.method,
            self.resource,
            self.code,
            self.peer,
            self.trace_id,
            self.request_id,
        )
        lengths = ",".join([str(len(text)) for text in texts])
        return f"{lengths}:{''.join(texts)}".replace("\0", "\ufffd").encode()

    @property
    def sealed_fields(self) -> tuple[str | int, ...]:
        """What a seal covers: everything, in an order that never changes."""
        return (
            self.tenant,
            self.record_id,
            self.sequence,
            self.time,
            self.principal,
            self.method,
            self.resource,
            self.code,
            self.peer,
            self.trace_id,
            self.request_id,
        )


@dataclass(frozen=True, slots=True)
class AuditPosition:
    """Where a record stands among those of its tenant."""

    time: Instant
    record_id: str


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """A page of records with a time in [since, until), newest first, older than `before`; of one
    principal, method, resource and code where these are not empty."""

    limit: int
    since: Instant | None = None
    until: Instant | None = None
    before: AuditPosition | None = None
    principal: str = ""
    method: str = ""
    resource: str = ""
    code: str = ""
