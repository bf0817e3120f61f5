"""Requests whose effects lie outside of the store: claimed, carried out elsewhere, answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Protocol

from agentmesh_conversation_store.domain.model import Micros

from .requests import Request


class RequestState(IntEnum):
    """How it stands with a request; values of the contract."""

    CLAIMED = 1
    HELD = 2
    ABANDONED = 3
    ANSWERED = 4


@dataclass(frozen=True, slots=True)
class Claim:
    """Whoever carries a request out, and for how long it is theirs alone."""

    request: Request[Any]
    claim_id: str
    hold: Micros = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands with a request, as one claim is told."""

    state: RequestState
    response: bytes = b""
    """What it was answered."""
    note: bytes = b""
    """Of whoever began with it before."""


class GivenUp(Enum):
    """Ends of a claim without an answer."""

    NOTHING_DONE = "nothing done"
    """The request is free again, unless somebody had begun before."""
    UNKNOWN = "unknown"
    """Nobody knows how far it came: the next one is told so."""


class Claims(Protocol):
    """The part of a storage that keeps them."""

    async def claim_request(self, claim: Claim) -> Standing:
        """Takes a request, or says who has it; with its response if it was answered."""
        ...

    async def renew_request(self, claim: Claim, note: bytes) -> bool:
        """Holds a claim for longer; with a note, the work begins. False if the claim was lost to
        another one or given up."""
        ...

    async def finish_request(self, claim: Claim, end: bytes | GivenUp) -> bool:
        """Keeps the response, or ends the claim without one. False if it was lost to another
        one."""
        ...

    async def recall(self, request: Request[Any]) -> bytes | None:
        """The kept response of a request, if it was made already."""
        ...
