"""Requests that are claimed; see `storage.claims`."""

from __future__ import annotations

from agentmesh_conversation_store.storage.claims import Claim, RequestState

from .plan import Plan, first, now
from .requests import LIFETIME, reused

_TAKE = """
INSERT INTO requests (tenant, request_id, digest, response, expires_at, claim_id, held_until)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, request_id) DO UPDATE SET
    digest = excluded.digest, response = excluded.response, expires_at = excluded.expires_at,
    claim_id = excluded.claim_id, held_until = excluded.held_until
WHERE requests.expires_at <= ?
RETURNING 1
"""
_LOOK = (
    "SELECT digest, response, claim_id, held_until FROM requests"
    " WHERE tenant = ? AND request_id = ? FOR UPDATE"
)
_HOLD = "UPDATE requests SET claim_id = ?, held_until = ? WHERE tenant = ? AND request_id = ?"
_ANSWER = (
    "UPDATE requests SET response = ?, claim_id = '', expires_at = ?"
    " WHERE tenant = ? AND request_id = ? AND claim_id = ? RETURNING 1"
)
_FORGET = "DELETE FROM requests WHERE tenant = ? AND request_id = ? AND claim_id = ? RETURNING 1"


def claim(wanted: Claim) -> Plan[tuple[RequestState, bytes]]:
    """Takes a request, or says how it stands with it."""
    request, at = wanted.request, (yield from now())
    until = at + wanted.hold
    row = yield from first(
        _TAKE, *request.key, request.digest, b"", at + LIFETIME, wanted.claim_id, until, at
    )
    if row is not None:
        return RequestState.CLAIMED, b""
    row = yield from first(_LOOK, *request.key)
    if row is None:  # given up just now
        return RequestState.HELD, b""
    digest, response, holder, held_until = row
    if bytes(digest) != request.digest:
        raise reused(request.request_id)
    if not holder:
        return RequestState.ANSWERED, bytes(response)
    if holder != wanted.claim_id and held_until > at:
        return RequestState.HELD, b""
    yield from first(f"{_HOLD} RETURNING 1", wanted.claim_id, until, *request.key)
    return (RequestState.CLAIMED if holder == wanted.claim_id else RequestState.ABANDONED), b""


def finish(held: Claim, response: bytes | None) -> Plan[bool]:
    """Keeps the response of a request, or forgets the request."""
    if response is None:
        return (yield from first(_FORGET, *held.request.key, held.claim_id)) is not None
    at = yield from now()
    kept = yield from first(_ANSWER, response, at + LIFETIME, *held.request.key, held.claim_id)
    return kept is not None
