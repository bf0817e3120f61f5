"""How many bodies of requests are held, and how much of them."""

from __future__ import annotations

import pytest
from agentmesh_gateway.limits.bodies import Bodies, Body
from agentmesh_gateway.limits.overload import Overload
from meshkit.caller_address import enter_caller_address
from meshkit.context import Principal
from meshkit.errors import MeshError
from meshkit.roles import Role

SOME = {b"content-length": b"10"}
CHUNKED = {b"transfer-encoding": b"chunked"}


def bodies(max_calls: int = 0, most_bytes: int = 0, largest: int = 100) -> Bodies:
    overload = Overload(max_calls=max_calls, max_lag=0, max_memory=0)
    return Bodies(overload, most_bytes, largest)


def body(held: Bodies, tenant: str, address: str, *, vital: bool = False) -> Body:
    enter_caller_address(address)
    return held.of(SOME, Principal("p", tenant, Role.USER), vital=vital)


def refusal(caught: pytest.ExceptionInfo[MeshError]) -> tuple[str, str]:
    quotas = caught.value.quotas
    assert caught.value.retry_after
    return caught.value.reason_name, quotas[0].subject if quotas else ""


def test_a_tenant_and_an_address_have_half_of_the_places() -> None:
    held = bodies(max_calls=4)
    first, _ = body(held, "acme", "10.0.0.1"), body(held, "acme", "10.0.0.2")
    with pytest.raises(MeshError) as caught:
        body(held, "acme", "10.0.0.3")
    assert refusal(caught) == ("QUOTA_EXCEEDED", "tenant:acme")
    body(held, "other", "10.0.0.2")
    with pytest.raises(MeshError) as caught:
        body(held, "third", "10.0.0.2")
    assert refusal(caught) == ("QUOTA_EXCEEDED", "address:10.0.0.2")
    body(held, "acme", "10.0.0.2", vital=True)
    first.complete()
    first.complete()
    with pytest.raises(MeshError):  # what stops things counts, too
        body(held, "acme", "10.0.0.4")


def test_bytes_are_held_until_the_call_is_over() -> None:
    held = bodies(most_bytes=200)
    with body(held, "acme", "10.0.0.1") as first:
        first.grow(60)
        first.complete()
        second = body(held, "acme", "10.0.0.2")
        second.grow(40)
        with pytest.raises(MeshError) as caught:
            second.grow(1)
        assert refusal(caught) == ("QUOTA_EXCEEDED", "tenant:acme")
        with pytest.raises(MeshError) as caught:
            body(held, "other", "10.0.0.1").grow(41)
        assert refusal(caught) == ("QUOTA_EXCEEDED", "address:10.0.0.1")
    second.grow(60)


def test_all_have_no_more_than_the_replica() -> None:
    held = bodies(most_bytes=200)
    for number in range(4):
        body(held, f"t{number}", f"10.0.0.{number}").grow(50)
    with pytest.raises(MeshError) as caught:
        body(held, "late", "10.0.0.9").grow(1)
    assert refusal(caught) == ("REPLICA_OVERLOADED", "")
    body(held, "late", "10.0.0.9", vital=True).grow(50)


def test_the_largest_body_always_fits() -> None:
    held = bodies(most_bytes=1, largest=100)
    with body(held, "acme", "10.0.0.1") as alone:
        alone.grow(100)
    with body(held, "acme", "10.0.0.1") as again:
        again.grow(100)


def test_no_limits_and_no_bodies() -> None:
    held = bodies()
    for _ in range(50):
        body(held, "acme", "10.0.0.1").grow(1000)
    none = bodies(max_calls=2)
    for headers in ({}, {b"content-length": b"0"}):
        for _ in range(5):
            none.of(headers, None, vital=False)
    none.of(CHUNKED, None, vital=False)
    with pytest.raises(MeshError):
        none.of(CHUNKED, None, vital=False)
