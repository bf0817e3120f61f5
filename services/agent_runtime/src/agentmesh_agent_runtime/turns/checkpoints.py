"""A team's state between two turns, as bytes: whole, or as a difference to the one before.

AutoGen's state repeats every message for each agent that heard it, and grows with every turn. So a
turn is kept as what it changed. Each difference is compressed against the end of what the chain
holds before it, which is where the messages that it hands from agent to agent stand already.

A chain begins with a whole state and is replaced by another whole one as soon as its differences
together outweigh that one. Whole ones therefore come at lengths that grow by a factor: what is
written per turn stays the same however long the conversation, and reading a chain never costs much
more than twice what a whole one would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import zstandard

from agentmesh_agent_runtime.turns.differences import Outline, apply, difference, outline
from agentmesh_agent_runtime.turns.grant import SavedCheckpoint

WHOLE: Final = "autogen-json+zstd/1"
DIFFERENCE: Final = "autogen-json-diff+zstd/1"
_WINDOW_LOG = 27
_LEVEL = 3
_READ_BYTES = 1 << 20

MOST_BYTES: Final = 256 << 20
"""What a chain may hold when it is decompressed, all its links together. One that came by an import
was written by somebody else: a few bytes of it may stand for any number."""

DICTIONARY_BYTES: Final = 128 * 1024
"""How much of the texts before it a difference is compressed against. Part of the encoding."""

LINK_BYTES: Final = 64
"""What a link of a chain counts beside its bytes: for its row, and for the time to take it in. It
bounds the links of a chain whose differences are tiny."""

LARGEST_WHOLE: Final = 2 << 20
"""A whole state of more bytes is not written, for it must fit into a message: the chain goes on."""


class UnreadableCheckpoint(ValueError):  # noqa: N818  read as a sentence where it is raised
    """The bytes are no checkpoint that this version reads."""


@dataclass(frozen=True)
class Checkpoint:
    """What is kept: AutoGen's state, where in the thread the present run begins, and what agents
    have `spent` in it that have a budget, as tokens and cost."""

    run_id: str
    run_from: int
    state: Mapping[str, Any] = field(default_factory=dict)
    spent: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chain:
    """What is remembered of a chain of checkpoints so that the next difference can follow.

    `weight` is that of its differences, `due` the weight at which a whole one is written instead of
    the next; `tail` the end of its texts.
    """

    outline: Outline
    tail: bytes
    due: int
    weight: int = 0


@dataclass(frozen=True)
class EncodedCheckpoint:
    """A checkpoint to commit, and the chain as it stands when that is done."""

    data: bytes
    encoding: str
    base_checkpoint_id: str
    chain: Chain


def encode(
    checkpoint: Checkpoint,
    chain: Chain | None = None,
    base_checkpoint_id: str = "",
    *,
    largest_whole: int = LARGEST_WHOLE,
) -> EncodedCheckpoint:
    """Continues the chain that ends with `base_checkpoint_id`, or begins one.

    Serialises at once: some of AutoGen's states are live references.
    """
    document = _document(checkpoint)
    now = outline(document)
    if chain is None or not base_checkpoint_id:
        return _whole(document, now)
    text = _text(difference(chain.outline, now, document))
    data = _compressor(chain.tail).compress(text)
    weight = chain.weight + len(data) + LINK_BYTES
    due = chain.due
    if weight > due:
        whole = _whole(document, now)
        if len(whole.data) <= largest_whole:
            return whole
        due = weight + len(whole.data)
    following = Chain(now, (chain.tail + text)[-DICTIONARY_BYTES:], due, weight)
    return EncodedCheckpoint(data, DIFFERENCE, base_checkpoint_id, following)


def decode(saved: Sequence[SavedCheckpoint]) -> tuple[Checkpoint, Chain]:
    """Reads a chain, its whole checkpoint first. Raises UnreadableCheckpoint."""
    try:
        return _decode(saved)
    except UnreadableCheckpoint:
        raise
    except (zstandard.ZstdError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UnreadableCheckpoint(f"the checkpoint cannot be read: {error!r}") from error


def _decode(saved: Sequence[SavedCheckpoint]) -> tuple[Checkpoint, Chain]:
    document: Any = None
    tail, due, weight = b"", 0, 0
    before = ""
    left = MOST_BYTES
    for link in saved:
        text = _decompressed(_decompressor(link, tail), link.data, left)
        left -= len(text)
        value = json.loads(text)
        if link.encoding == WHOLE:
            document, tail, due, weight = value, b"", len(link.data), 0
        elif before and link.base_checkpoint_id == before:
            document = document if value is None else apply(document, value)
            weight += len(link.data) + LINK_BYTES
        else:
            base = link.base_checkpoint_id or "nothing"
            raise UnreadableCheckpoint(f"{link.checkpoint_id} follows {base}, not {before!r}")
        tail = (tail + text)[-DICTIONARY_BYTES:]
        before = link.checkpoint_id
    if document is None:
        raise UnreadableCheckpoint("there are no bytes")
    return Checkpoint(**document), Chain(outline(document), tail, due, weight)


def _decompressed(decompressor: zstandard.ZstdDecompressor, data: bytes, most: int) -> bytes:
    """At most so many bytes. `decompress` minds no limit where a frame announces its size."""
    size = zstandard.frame_content_size(data)
    if size > most:
        raise _too_large()
    if size >= 0:
        return decompressor.decompress(data)
    text = bytearray()
    with decompressor.stream_reader(data) as reader:
        while part := reader.read(_READ_BYTES):
            text += part
            if len(text) > most:
                raise _too_large()
    return bytes(text)


def _too_large() -> UnreadableCheckpoint:
    return UnreadableCheckpoint(f"the checkpoints hold more than {MOST_BYTES} bytes")


def _decompressor(link: SavedCheckpoint, tail: bytes) -> zstandard.ZstdDecompressor:
    if link.encoding == WHOLE:
        return zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
    if link.encoding == DIFFERENCE:
        return zstandard.ZstdDecompressor(dict_data=_dictionary(tail))
    raise UnreadableCheckpoint(
        f"the checkpoint is encoded as {link.encoding!r}, "
        f"this version reads {WHOLE!r} and {DIFFERENCE!r}"
    )


def _whole(document: Mapping[str, Any], now: Outline) -> EncodedCheckpoint:
    """The repetitions are far apart but equal: a window over everything keeps each message once."""
    text = _text(document)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, window_log=min(_WINDOW_LOG, max(17, len(text).bit_length() + 1)), enable_ldm=True
    )
    data = zstandard.ZstdCompressor(compression_params=parameters).compress(text)
    return EncodedCheckpoint(data, WHOLE, "", Chain(now, text[-DICTIONARY_BYTES:], len(data)))


def _document(checkpoint: Checkpoint) -> dict[str, Any]:
    document = {name: getattr(checkpoint, name) for name in ("run_id", "run_from", "state")}
    return document | ({"spent": checkpoint.spent} if checkpoint.spent else {})


def _text(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
    return text.encode("utf-8", "surrogatepass")


def _compressor(tail: bytes) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=_LEVEL, dict_data=_dictionary(tail))


def _dictionary(tail: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(tail, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
