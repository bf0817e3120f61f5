"""What the calls of each caller take, and what is said when it is used up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Sequence

from meshkit.context import Principal
from meshkit.errors import MeshError, QuotaViolation

from agentmesh_gateway.limits.buckets import Take, Verdict
from agentmesh_gateway.limits.report import find_report, policy_of
from agentmesh_gateway.limits.tenants import TenantLimits

_MOST_KEPT = 10_000


class Shares:
    """One token of each of some buckets; `subjects` says whose each is, as errors name them, for
    example "tenant:acme"."""

    __slots__ = ("_names", "_policy", "subjects", "takes")

    def __init__(self, takes: Sequence[Take], subjects: Sequence[str]) -> None:
        self.takes = takes
        self.subjects = subjects
        self._names = [subject.partition(":")[0] for subject in subjects]
        self._policy = b""

    def require(self, verdict: Verdict) -> None:
        """Says how the caller stands to who wants to know. Raises MeshError RATE_LIMITED if the
        tokens were not given."""
        report = find_report()
        if report is not None:
            if not self._policy:
                self._policy = policy_of(self._names, [take.rate for take in self.takes])
            report.fill(self._policy, self._names, verdict)
        if not verdict.granted:
            raise self._refusal(verdict)

    async def require_when_known(self, verdict: Awaitable[Verdict]) -> None:
        """As `require`, of a verdict that takes its time."""
        self.require(await verdict)

    def _refusal(self, verdict: Verdict) -> MeshError:
        at = verdict.refused_by
        rate, subject = self.takes[at].rate, self.subjects[at]
        quota = f"{rate.per_second:g} calls a second, {rate.burst:g} at once"
        error = MeshError.rate_limited(
            f"{subject} has used up its {quota}", verdict.standings[at].retry_in
        )
        error.quotas = (QuotaViolation(subject, quota),)
        return error


class SharesOfCallers:
    """The shares of principals: their own and their tenant's. They are kept for as long as the
    limits are the same, of so many callers."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, bool], tuple[TenantLimits, Shares]] = OrderedDict()

    def of(self, principal: Principal, limits: TenantLimits, *, vital: bool) -> Shares:
        """What one call takes. Vital ones have buckets of their own."""
        key = (principal.tenant, principal.subject, vital)
        kept = self._kept.get(key)
        if kept is not None and kept[0] is limits:
            return kept[1]
        shares = _shares(principal, limits, "vital/" if vital else "")
        self._kept[key] = (limits, shares)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return shares


def subjects_of(principal: Principal) -> tuple[str, str]:
    """Whose limits hold for a call, as errors name them."""
    return f"principal:{principal.subject}", f"tenant:{principal.tenant}"


def _shares(principal: Principal, limits: TenantLimits, kind: str) -> Shares:
    own, common = subjects_of(principal)
    wanted = [
        (
            f"principal/{principal.tenant}/{principal.subject}",
            limits.requests_of_principal,
            own,
        ),
        (f"tenant/{principal.tenant}", limits.requests, common),
    ]
    held = [(kind + key, rate, subject) for key, rate, subject in wanted if rate is not None]
    return Shares([Take(key, rate) for key, rate, _ in held], [subject for _, _, subject in held])
