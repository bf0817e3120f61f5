"""What changed between two values, and chains of that."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from functools import cache
from hashlib import sha512
from typing import Any

import hypothesis.strategies as st
import pytest
import zstandard
from agentmesh_agent_runtime.turns import checkpoints
from agentmesh_agent_runtime.turns.checkpoints import (
    DIFFERENCE,
    LINK_BYTES,
    MOST_BYTES,
    WHOLE,
    Chain,
    Checkpoint,
    EncodedCheckpoint,
    UnreadableCheckpoint,
    decode,
    encode,
)
from agentmesh_agent_runtime.turns.differences import (
    UnfitDifference,
    apply,
    difference,
    outline,
)
from agentmesh_agent_runtime.turns.grant import SavedCheckpoint
from hypothesis import given

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def led_from_to(old: Any, new: Any) -> Any:
    step = difference(outline(old), outline(new), new)
    base = deepcopy(old)
    return base if step is None else apply(base, json.loads(json.dumps(step)))


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two values that share much: what is kept must be kept right."""
    keys = st.sampled_from("abcde")
    shared: dict[str, Any] = draw(st.dictionaries(keys, st.lists(values, max_size=4)))
    old, new = dict(shared), dict(shared)
    for side in (old, new):
        for key in draw(st.lists(keys, max_size=2)):
            match draw(st.integers(0, 3)):
                case 0:
                    side.pop(key, None)
                case 1:
                    side[key] = draw(values)
                case 2:
                    before = side.get(key)
                    side[key] = [*(before if isinstance(before, list) else ()), draw(values)]
                case 3:
                    side[key] = {"inner": draw(values), "same": shared.get(key)}
    return old, new


@given(values, values)
def test_a_difference_leads_from_any_value_to_any_other(old: Any, new: Any) -> None:
    assert written(led_from_to(old, new)) == written(new)


@given(neighbours())
def test_a_difference_leads_between_neighbours(pair: tuple[Any, Any]) -> None:
    old, new = pair
    assert written(led_from_to(old, new)) == written(new)


@given(values)
def test_nothing_leads_to_the_same(value: Any) -> None:
    assert difference(outline(value), outline(deepcopy(value)), value) is None


@pytest.mark.parametrize(("old", "new"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ("1", 1)])
def test_what_python_takes_for_equal_is_told_apart(old: Any, new: Any) -> None:
    assert difference(outline([old]), outline([new]), [new]) == [1, 0, [new]]


def test_growth_costs_what_came() -> None:
    log = [{"text": "x" * 1000}] * 500
    old = {"log": log, "count": 500, "gone": 1}
    new = {"log": [*log, {"text": "y"}], "count": 501}
    step = difference(outline(old), outline(new), new)
    assert step == [2, {"log": [1, 500, [{"text": "y"}]], "count": [0, 501]}, ["gone"]]


def test_what_is_no_json_counts_as_what_it_is_written_as() -> None:
    new = {"pair": (1, 2), 3: {True: None}}
    step = difference(outline({"pair": [1]}), outline(new), new)
    assert apply({"pair": [1]}, json.loads(json.dumps(step))) == json.loads(json.dumps(new))
    assert difference(outline(json.loads(json.dumps(new))), outline(new), new) is None


@pytest.mark.parametrize(
    ("base", "step"),
    [
        ([1], [1, 2, []]),
        ({}, [1, 0, []]),
        ([], [2, {}, []]),
        ({"a": 1}, [2, {}, ["b"]]),
        ({"a": 1}, [2, {"b": [1, 0, [2]]}, []]),
        ({}, [3]),
        ({}, "nonsense"),
    ],
)
def test_a_difference_to_something_else_is_refused(base: Any, step: Any) -> None:
    with pytest.raises(UnfitDifference):
        apply(base, step)


class Log:
    """Commits encoded checkpoints, as a store would."""

    def __init__(self) -> None:
        self.saved: list[SavedCheckpoint] = []
        self.chain: Chain | None = None

    @property
    def newest(self) -> str:
        return self.saved[-1].checkpoint_id if self.saved else ""

    def commit(self, checkpoint: Checkpoint, **options: int) -> EncodedCheckpoint:
        encoded = encode(checkpoint, self.chain, self.newest, **options)
        name = f"ckpt_{len(self.saved)}"
        self.saved.append(
            SavedCheckpoint(name, encoded.data, encoded.encoding, encoded.base_checkpoint_id)
        )
        self.chain = encoded.chain
        return encoded

    def to_newest(self) -> list[SavedCheckpoint]:
        """The chain that a grant would carry."""
        by_id = {one.checkpoint_id: one for one in self.saved}
        chain = [self.saved[-1]]
        while chain[0].base_checkpoint_id:
            chain.insert(0, by_id[chain[0].base_checkpoint_id])
        return chain


@cache
def _said(number: int) -> dict[str, str]:
    text = sha512(str(number).encode()).hexdigest()
    return {"source": f"agent{number % 3}", "content": text}


def talk(turns: int) -> Checkpoint:
    """Messages that cannot be guessed from others."""
    said = [_said(number) for number in range(turns)]
    return Checkpoint("run_1", 0, {"thread": said, "a": said[:-1], "b": said, "next": turns % 3})


@given(st.lists(st.dictionaries(st.sampled_from("abc"), values), min_size=1, max_size=12))
def test_a_chain_of_any_states_reads_as_the_newest(states: list[dict[str, Any]]) -> None:
    log = Log()
    for number, state in enumerate(states):
        log.commit(Checkpoint("run_1", number, state))
        checkpoint, _ = decode(log.to_newest())
        assert written(checkpoint.state) == written(state)
        assert checkpoint.run_from == number


def test_a_chain_goes_on_where_another_worker_left_it() -> None:
    warm, cold = Log(), Log()
    for turns in range(1, 60):
        ours = warm.commit(talk(turns))
        theirs = cold.commit(talk(turns))
        assert (ours.data, ours.encoding) == (theirs.data, theirs.encoding)
        _, cold.chain = decode(cold.to_newest())


def test_what_is_written_does_not_grow_with_the_conversation() -> None:
    log = Log()
    sizes = [len(log.commit(talk(turns)).data) for turns in range(1, 401)]
    early, late = sum(sizes[20:40]) / 20, sum(sizes[200:400]) / 200
    assert late <= 2 * early, (early, late)
    whole = [number for number, one in enumerate(log.saved) if one.encoding == WHOLE]
    assert 3 <= len(whole) <= 30, whole


def test_a_chain_weighs_at_most_as_much_as_its_whole_one() -> None:
    log = Log()
    for turns in range(1, 200):
        log.commit(talk(turns))
        first, *others = log.to_newest()
        assert first.encoding == WHOLE
        assert {one.encoding for one in others} <= {DIFFERENCE}
        assert sum(len(one.data) + LINK_BYTES for one in others) <= len(first.data)


def test_tiny_differences_do_not_make_endless_chains() -> None:
    log = Log()
    state = {"count": 0, "text": " ".join(str(n) for n in range(3000))}
    longest = 0
    for number in range(300):
        encoded = log.commit(Checkpoint("run_1", 0, state | {"count": number}))
        longest = max(longest, len(log.to_newest()))
    assert encoded.encoding in (WHOLE, DIFFERENCE)
    assert longest <= 1 + len(log.saved[0].data) // LINK_BYTES + 1


def test_a_state_too_large_for_a_message_stays_a_chain() -> None:
    log = Log()
    for turns in range(1, 200):
        log.commit(talk(turns), largest_whole=len(log.saved[0].data) + 200 if log.saved else 10**6)
    whole = [one for one in log.saved[1:] if one.encoding == WHOLE]
    assert all(len(one.data) <= len(log.saved[0].data) + 200 for one in whole)
    assert len(log.to_newest()) > 150
    checkpoint, _ = decode(log.to_newest())
    assert checkpoint == talk(199)


def test_a_whole_checkpoint_needs_no_chain() -> None:
    log = Log()
    log.commit(talk(3))
    (only,) = log.saved
    assert decode([replace(only, base_checkpoint_id="")])[0] == talk(3)


def test_a_chain_with_a_link_missing_is_refused() -> None:
    log = Log()
    turns = 0
    while len(log.saved) < 20 or len(log.to_newest()) < 4:
        log.commit(talk(turns := turns + 1))
    chain = log.to_newest()
    for broken in ([], chain[1:], [chain[0], *chain[2:]], chain[:-2] + chain[-1:]):
        with pytest.raises(UnreadableCheckpoint):
            decode(broken)
    with pytest.raises(UnreadableCheckpoint, match="autogen-xml"):
        decode([replace(chain[0], encoding="autogen-xml/9")])
    with pytest.raises(UnreadableCheckpoint):
        decode([replace(chain[0], data=b"junk")])


def _frame(size: int, *, announced: bool) -> bytes:
    """White space of `size` bytes, and then JSON: a few bytes stand for all of it."""
    text = b" " * (size - 2) + b"{}"
    return zstandard.ZstdCompressor(write_content_size=announced).compress(text)


@pytest.mark.parametrize("announced", [True, False])
def test_a_small_frame_does_not_become_a_large_checkpoint(*, announced: bool) -> None:
    data = _frame(MOST_BYTES + 1, announced=announced)
    assert len(data) < MOST_BYTES // 1000
    with pytest.raises(UnreadableCheckpoint, match=f"more than {MOST_BYTES} bytes"):
        decode([SavedCheckpoint("ckpt_1", data, WHOLE)])


@pytest.mark.parametrize("announced", [True, False])
def test_a_chain_has_a_limit_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, *, announced: bool
) -> None:
    monkeypatch.setattr(checkpoints, "MOST_BYTES", 1000)
    document = json.dumps({"run_id": "run_1", "run_from": 0, "state": {}})
    whole = zstandard.compress(document.ljust(400).encode())
    compressor = zstandard.ZstdCompressor(
        dict_data=zstandard.ZstdCompressionDict(
            document.ljust(400).encode(), dict_type=zstandard.DICT_TYPE_RAWCONTENT
        ),
        write_content_size=announced,
    )
    for size, fits in ((600, True), (601, False)):
        link = SavedCheckpoint(
            "ckpt_2", compressor.compress(b"null".ljust(size)), DIFFERENCE, "ckpt_1"
        )
        chain = [SavedCheckpoint("ckpt_1", whole, WHOLE), link]
        if fits:
            assert decode(chain)[0] == Checkpoint("run_1", 0, {})
        else:
            with pytest.raises(UnreadableCheckpoint, match="more than 1000 bytes"):
                decode(chain)


def test_json_that_is_too_deep_is_no_checkpoint() -> None:
    data = zstandard.compress(b"[" * 1_000_000)
    with pytest.raises(UnreadableCheckpoint, match="RecursionError"):
        decode([SavedCheckpoint("ckpt_1", data, WHOLE)])


def test_checkpoints_from_before_there_were_chains_still_load() -> None:
    document = {"run_id": "run_1", "run_from": 4, "state": {"thread": ["hello"]}}
    data = zstandard.compress(json.dumps(document).encode())
    old = SavedCheckpoint("ckpt_old", data, "autogen-json+zstd/1")
    checkpoint, chain = decode([old])
    assert checkpoint == Checkpoint("run_1", 4, {"thread": ["hello"]})
    following = Checkpoint("run_1", 4, {"thread": ["hello"] * 2})
    encoded = encode(following, replace(chain, due=10**6), "ckpt_old")
    link = SavedCheckpoint("ckpt_new", encoded.data, encoded.encoding, encoded.base_checkpoint_id)
    assert encoded.encoding == DIFFERENCE
    assert decode([old, link])[0] == following
