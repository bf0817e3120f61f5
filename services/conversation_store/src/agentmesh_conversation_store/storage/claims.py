"""Requests whose effects lie outside of the store: claimed, carried out elsewhere, answered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
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
    hold: Micros


class Claims(Protocol):
    """The part of a storage that keeps them."""

    async def claim_request(self, claim: Claim) -> tuple[RequestState, bytes]:
        """Takes a request, or says who has it; with its response if it was answered."""
        ...

    async def finish_request(self, claim: Claim, response: bytes | None) -> bool:
        """Keeps the response, or forgets the request if that is None. False if the claim was lost
        to another one."""
        ...
