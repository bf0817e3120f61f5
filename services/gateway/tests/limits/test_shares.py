"""What calls take of their callers' limits; how those stand is worked out for who is told alone."""

from __future__ import annotations

import contextvars

import pytest
from agentmesh_gateway.limits import buckets
from agentmesh_gateway.limits.buckets import LocalBuckets, Rate, Standing, Take
from agentmesh_gateway.limits.report import RateReport, expect_report
from agentmesh_gateway.limits.shares import Shares, SharesOfCallers
from agentmesh_gateway.limits.tenants import TenantLimits
from meshkit.context import Principal
from meshkit.errors import MeshError
from meshkit.roles import Role

ALICE = Principal("alice", "acme", Role.USER)
LIMITS = TenantLimits(Rate(1000, 2000), Rate(0.001, 2), None, None)


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> list[Rate]:
    """The rates of buckets whose standing was worked out."""
    rates: list[Rate] = []
    standing = buckets.standing

    def noted(rate: Rate, backlog: float) -> Standing:
        rates.append(rate)
        return standing(rate, backlog)

    monkeypatch.setattr(buckets, "standing", noted)
    return rates


def test_standings_are_worked_out_for_who_reads_them(worked_out: list[Rate]) -> None:
    local, shares = LocalBuckets(10, lambda: 0.0), SharesOfCallers().of(ALICE, LIMITS, vital=False)
    shares.require(local.take(shares.takes))
    report = contextvars.copy_context().run(_reported, local, shares)
    assert worked_out == []
    headers = dict(report.headers())
    assert headers[b"ratelimit-policy"] == b'"principal";q=2;w=2000, "tenant";q=2000;w=2'
    assert headers[b"ratelimit"].startswith(b'"principal";r=0;t=1000, "tenant";r=1998;t=1')
    assert len(worked_out) == 2


def test_a_refusal_says_whose_limit_it_is_and_when_to_come_back() -> None:
    local, shares = LocalBuckets(10, lambda: 0.0), SharesOfCallers().of(ALICE, LIMITS, vital=False)
    for _ in range(2):
        shares.require(local.take(shares.takes))
    with pytest.raises(MeshError, match=r"0\.001 calls a second, 2 at once") as caught:
        shares.require(local.take(shares.takes))
    assert caught.value.quotas[0].subject == "principal:alice"
    assert 900 < (caught.value.retry_after or 0) <= 1000


def test_other_limits_hold_at_once() -> None:
    callers = SharesOfCallers()
    before = callers.of(ALICE, LIMITS, vital=False)
    assert callers.of(ALICE, LIMITS, vital=False) is before
    lower = TenantLimits(Rate(1, 1), None, None, None)
    assert [take.rate for take in callers.of(ALICE, lower, vital=False).takes] == [Rate(1, 1)]
    vital = callers.of(ALICE, LIMITS, vital=True)
    assert {take.key for take in vital.takes}.isdisjoint(take.key for take in before.takes)


def test_without_limits_nothing_is_taken() -> None:
    assert not SharesOfCallers().of(ALICE, TenantLimits(*[None] * 4), vital=False).takes


def test_a_bucket_that_refuses_is_as_it_was() -> None:
    local = LocalBuckets(10, lambda: 0.0)
    narrow, wide = Take("n", Rate(1, 1)), Take("w", Rate(1, 5))
    for _ in range(3):
        local.take([narrow, wide])
    assert [one.remaining for one in local.take([narrow, wide]).standings] == [0, 4]


def _reported(local: LocalBuckets, shares: Shares) -> RateReport:
    report = expect_report()
    shares.require(local.take(shares.takes))
    return report
