"""Names that every attempt at a turn gives to the same thing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def message_id(run_id: str, turn: int, step_key: str) -> str:
    """The id of the message that a step makes: "msg_" and 26 characters, 130 bits."""
    digest = hashlib.sha256(f"{run_id}\0{turn}\0{step_key}".encode()).digest()
    number = int.from_bytes(digest[:17], "big") >> 6
    return "msg_" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def approval_id(run_id: str, turn: int, call_id: str) -> str:
    """The id of a turn's request to a person about a tool call; the store's contract says so."""
    digest = hashlib.sha256(f"{run_id}/{turn}/{call_id}".encode())
    return f"appr_{digest.hexdigest()[:32]}"


@dataclass(frozen=True)
class AttemptId:
    """Who claims a step, and up to which input the turn has read.

    A later attempt at a turn with claimed steps must feed the team exactly the same inputs, or its
    requests would differ from the claimed ones; so the claim says which they were.
    """

    worker_id: str
    fence: int
    inputs_through: int

    def __str__(self) -> str:
        return f"{self.worker_id}/{self.fence}/inputs={self.inputs_through}"


def inputs_through(attempt_id: str) -> int | None:
    """Up to which sequence the claiming attempt had read its inputs, if the id says so."""
    _, separator, number = attempt_id.rpartition("/inputs=")
    return int(number) if separator and number.isdigit() else None
