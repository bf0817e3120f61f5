"""Which role includes which."""

from __future__ import annotations

import pytest
from agentmesh.common.v1 import options_pb2
from meshkit.roles import Role, includes, role_name

VIEWER, USER, SERVICE, OPERATOR, ADMIN = (
    Role.VIEWER,
    Role.USER,
    Role.SERVICE,
    Role.OPERATOR,
    Role.ADMIN,
)


def test_the_numbers_are_those_of_the_contract() -> None:
    stated = {name: number for name, number in options_pb2.Role.items() if number}
    assert {f"ROLE_{role.name}": role.value for role in Role} == stated


@pytest.mark.parametrize(
    ("role", "included"),
    [
        (VIEWER, {VIEWER}),
        (USER, {VIEWER, USER}),
        (SERVICE, {VIEWER, USER, SERVICE}),
        (OPERATOR, {VIEWER, USER, OPERATOR}),
        (ADMIN, set(Role)),
    ],
)
def test_a_role_includes_these_and_no_others(role: Role, included: set[Role]) -> None:
    assert {other for other in Role if includes(role, other)} == included


@pytest.mark.parametrize("number", [0, -1, 6, 2**31])
def test_an_unknown_role_may_nothing_and_is_included_by_none(number: int) -> None:
    assert not any(includes(number, role) or includes(role, number) for role in Role)
    assert role_name(number) == "none"


def test_names() -> None:
    assert [role_name(role) for role in (VIEWER, USER, SERVICE, OPERATOR, ADMIN)] == [
        "viewer",
        "user",
        "service",
        "operator",
        "admin",
    ]
