"""Guessing credentials ends soon; guests of the same address are not locked out by it."""

from __future__ import annotations

import pytest
from agentmesh_gateway.limits.buckets import LocalBuckets
from agentmesh_gateway.limits.credential_guard import CredentialGuard, Metadata, site_of
from meshkit.caller_address import enter_caller_address
from meshkit.errors import MeshError


def check(guard: CredentialGuard, secret: str, *, good: bool, address: str = "10.0.0.1") -> str:
    """What comes of showing a secret."""
    enter_caller_address(address)
    metadata: Metadata = [("x-api-key", secret), ("traceparent", "00-1")]
    try:
        with guard.watching(metadata):
            if not good:
                raise MeshError.credentials_invalid("unknown")
    except MeshError as error:
        return error.reason_name
    return "OK"


def test_refusals_of_one_address_are_bounded() -> None:
    guard = CredentialGuard(LocalBuckets(10), per_minute=3)
    said = [check(guard, f"guess-{n}", good=False) for n in range(5)]
    assert said == ["CREDENTIALS_INVALID"] * 3 + ["RATE_LIMITED"] * 2
    # Not even the right one is found by guessing on.
    assert check(guard, "new", good=True) == "RATE_LIMITED"
    assert check(guard, "guess", good=False, address="10.0.0.2") == "CREDENTIALS_INVALID"


def test_who_was_known_to_be_good_goes_on() -> None:
    guard = CredentialGuard(LocalBuckets(10), per_minute=3)
    assert check(guard, "alice", good=True) == "OK"
    for n in range(5):
        check(guard, f"guess-{n}", good=False)
    assert check(guard, "alice", good=True) == "OK"
    assert check(guard, "alice", good=False) == "CREDENTIALS_INVALID"  # revoked
    assert check(guard, "alice", good=False) == "RATE_LIMITED"


def test_other_failures_are_no_guesses_and_the_refusal_says_how_long() -> None:
    guard = CredentialGuard(LocalBuckets(10), per_minute=1)
    for _ in range(3):
        with pytest.raises(MeshError, match="not available"), guard.watching([("x-api-key", "a")]):
            raise MeshError.unavailable("conversation_store")
    check(guard, "guess", good=False)
    enter_caller_address("10.0.0.1")
    with pytest.raises(MeshError) as caught, guard.watching([("x-api-key", "b")]):
        pass
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 60
    assert caught.value.quotas[0].subject == "address:10.0.0.1"


def test_calls_without_credentials_are_none_of_its_business() -> None:
    guard = CredentialGuard(LocalBuckets(10), per_minute=1)
    for _ in range(3):
        with pytest.raises(MeshError, match="needed"), guard.watching([]):
            raise MeshError.credentials_missing("needed")


def test_no_limit() -> None:
    guard = CredentialGuard(LocalBuckets(10), per_minute=0)
    assert {check(guard, f"{n}", good=False) for n in range(99)} == {"CREDENTIALS_INVALID"}


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", "unknown"),
        ("unix", "unix"),
        ("odd:name", "odd:name"),
    ],
)
def test_what_counts_as_one_caller(address: str, site: str) -> None:
    assert site_of(address) == site
