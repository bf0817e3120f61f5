"""A team's state between two turns, as bytes.

AutoGen's state repeats every message for each agent that heard it. The repetitions are far apart
but equal, so a compressor with a window over the whole state stores each message about once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import zstandard

ENCODING = "autogen-json+zstd/1"
_WINDOW_LOG = 27
_MAX_BYTES = 1 << 30


class UnreadableCheckpoint(ValueError):  # noqa: N818  read as a sentence where it is raised
    """The bytes are no checkpoint that this version reads."""


@dataclass(frozen=True)
class Checkpoint:
    """What is kept: AutoGen's state, and where in the thread the present run begins."""

    run_id: str
    run_from: int
    state: Mapping[str, Any] = field(default_factory=dict)


def encode(checkpoint: Checkpoint) -> bytes:
    """Serialises at once: some of AutoGen's states are live references."""
    text = json.dumps(asdict(checkpoint), separators=(",", ":"), ensure_ascii=False, default=str)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=min(_WINDOW_LOG, max(17, len(text).bit_length() + 1)), enable_ldm=True
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(text.encode())


def decode(data: bytes, encoding: str) -> Checkpoint:
    """Reads what `encode` wrote. Raises UnreadableCheckpoint."""
    if encoding != ENCODING:
        raise UnreadableCheckpoint(
            f"the checkpoint is encoded as {encoding!r}, this version reads {ENCODING!r}"
        )
    try:
        raw = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG).decompress(
            data, max_output_size=_MAX_BYTES
        )
        return Checkpoint(**json.loads(raw))
    except (zstandard.ZstdError, ValueError, TypeError) as error:
        raise UnreadableCheckpoint(f"the checkpoint cannot be read: {error}") from error
