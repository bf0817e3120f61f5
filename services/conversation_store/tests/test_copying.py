"""Changed copies are what `dataclasses.replace` makes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from agentmesh_conversation_store.domain.copying import replace
from agentmesh_conversation_store.domain.model import Run, RunStatus

RUN = Run("tenant", "run", "conversation", "run", "digest", started_at=1, max_rounds=3)


@dataclasses.dataclass(frozen=True, slots=True)
class One:
    """A single field."""

    number: int


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Run)])
def test_one_field_changes_and_no_other(name: str) -> None:
    before = dataclasses.astuple(RUN)
    other: dict[str, Any] = {name: "other"}
    changed = replace(RUN, **other)
    assert changed == dataclasses.replace(RUN, **other)
    assert changed is not RUN
    assert dataclasses.astuple(RUN) == before


def test_several_fields_at_once() -> None:
    changed = replace(RUN, turn=4, status=RunStatus.PAUSED)
    assert changed == dataclasses.replace(RUN, turn=4, status=RunStatus.PAUSED)
    assert hash(changed) == hash(dataclasses.replace(RUN, turn=4, status=RunStatus.PAUSED))
    assert replace(One(1), number=2) == One(2)


def test_the_copy_is_frozen_too() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        replace(RUN, turn=4).turn = 5  # type: ignore[misc]  # which is the point


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="Run has no field 'colour'"):
        replace(RUN, colour="red")  # type: ignore[call-arg]  # which is the point


def test_a_class_that_looks_at_its_fields_is_not_copied_behind_its_back() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Even:
        number: int

        def __post_init__(self) -> None:
            assert self.number % 2 == 0

    @dataclasses.dataclass(frozen=True)
    class Loose:
        number: int

    with pytest.raises(TypeError, match="Even"):
        replace(Even(2), number=3)
    with pytest.raises(TypeError, match="Loose"):
        replace(Loose(2), number=3)
