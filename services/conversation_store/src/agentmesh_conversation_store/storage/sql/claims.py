"""Requests that are claimed; see `storage.claims`.

A row whose `claim_id` is empty is answered. `note` is what was noted by the first claim that began,
`noted_by` is that claim: until it says that it did nothing, nobody may take the request for new.
"""

from __future__ import annotations

from typing import Any

from agentmesh_conversation_store.storage.claims import Claim, GivenUp, RequestState, Standing

from .plan import Plan, first, now
from .requests import LIFETIME, reused

_TAKE = """
INSERT INTO requests
    (tenant, request_id, digest, response, expires_at, claim_id, held_until, note, noted_by)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, '')
ON CONFLICT (tenant, request_id) DO UPDATE SET
    digest = excluded.digest, response = excluded.response, expires_at = excluded.expires_at,
    claim_id = excluded.claim_id, held_until = excluded.held_until, note = excluded.note,
    noted_by = excluded.noted_by
WHERE requests.expires_at <= ?
RETURNING 1
"""
_LOOK = (
    "SELECT digest, response, claim_id, held_until, note, noted_by FROM requests"
    " WHERE tenant = ? AND request_id = ? FOR UPDATE"
)
_TAKE_OVER = (
    "UPDATE requests SET claim_id = ?, held_until = ? WHERE tenant = ? AND request_id = ?"
    " RETURNING 1"
)
# Of these only the claim that has the request is capable.
_OWN = "WHERE tenant = ? AND request_id = ? AND claim_id = ? RETURNING 1"
_HOLD = "UPDATE requests SET held_until = ?"
_BEGIN = """
UPDATE requests SET held_until = ?,
    note = CASE WHEN noted_by = '' THEN ? ELSE note END,
    noted_by = CASE WHEN noted_by = '' THEN claim_id ELSE noted_by END
"""
_ANSWER = """
UPDATE requests SET response = ?, note = ?, expires_at = ?, claim_id = '', noted_by = ''
"""
_LEAVE = "UPDATE requests SET held_until = 0, claim_id = '-'"
_FORGET = "DELETE FROM requests"


def claim(wanted: Claim) -> Plan[Standing]:
    """Takes a request, or says how it stands with it."""
    request, at = wanted.request, (yield from now())
    until = at + wanted.hold
    row = yield from first(
        _TAKE, *request.key, request.digest, b"", at + LIFETIME, wanted.claim_id, until, b"", at
    )
    if row is not None:
        return Standing(RequestState.CLAIMED)
    row = yield from first(_LOOK, *request.key)
    if row is None:  # given up just now
        return Standing(RequestState.HELD)
    digest, response, holder, held_until, note, noted_by = row
    if bytes(digest) != request.digest:
        raise reused(request.request_id)
    if not holder:
        return Standing(RequestState.ANSWERED, bytes(response))
    if holder != wanted.claim_id and held_until > at:
        return Standing(RequestState.HELD)
    yield from first(_TAKE_OVER, wanted.claim_id, until, *request.key)
    if noted_by in ("", wanted.claim_id):
        return Standing(RequestState.CLAIMED)
    return Standing(RequestState.ABANDONED, note=bytes(note))


def renew(held: Claim, note: bytes) -> Plan[bool]:
    """Holds a claim for longer, if it still is one."""
    until = (yield from now()) + held.hold
    if note:
        return (yield from _change(held, _BEGIN, until, note))
    return (yield from _change(held, _HOLD, until))


def finish(held: Claim, end: bytes | GivenUp) -> Plan[bool]:
    """Keeps the response of a request, or leaves it to the next one. What was finished so already
    is finished."""
    row = yield from first(_LOOK, *held.request.key)
    if row is None:
        return isinstance(end, GivenUp)
    _, response, holder, _, _, noted_by = row
    if holder != held.claim_id:
        return not holder and end == bytes(response)
    if isinstance(end, bytes):
        at = yield from now()
        return (yield from _change(held, _ANSWER, end, b"", at + LIFETIME))
    if end is GivenUp.NOTHING_DONE and noted_by in ("", held.claim_id):
        return (yield from _change(held, _FORGET))
    return (yield from _change(held, _LEAVE))


def _change(held: Claim, sql: str, *arguments: Any) -> Plan[bool]:
    changed = yield from first(f"{sql} {_OWN}", *arguments, *held.request.key, held.claim_id)
    return changed is not None
