"""Repeatable requests: what was answered is kept with the mutation itself, for a day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agentmesh_conversation_store.domain.model import SECOND, Instant
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.requests import Request

from .plan import Plan, each, fetch, fetch_each, first, now

T = TypeVar("T")

LIFETIME = 24 * 3600 * SECOND
_PRUNED_AT_ONCE = 1000

# Claiming waits for a transaction of another replica that claims the same id.
_CLAIM = """
INSERT INTO requests (tenant, request_id, digest, response, expires_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant, request_id) DO UPDATE SET
    digest = excluded.digest, response = excluded.response, expires_at = excluded.expires_at
WHERE requests.expires_at <= ?
RETURNING tenant, request_id
"""
_KEPT = (
    "SELECT tenant, request_id, digest, response FROM requests WHERE tenant = ? AND request_id = ?"
)
_ANSWER = "UPDATE requests SET response = ? WHERE tenant = ? AND request_id = ?"
_UNCLAIM = "DELETE FROM requests WHERE tenant = ? AND request_id = ?"

Key = tuple[str, str]


def key_of(request: Request[Any]) -> Key:
    """What identifies a request."""
    return request.key


def claim(requests: Sequence[Request[Any]]) -> Plan[dict[Key, bytes | Rejection]]:
    """Takes ids for new requests; for each one that was used before, what was answered, or the
    refusal if its body was another."""
    if not requests:
        return {}
    ordered = sorted(requests, key=key_of)
    at = yield from now()
    claimed = yield from fetch_each(
        _CLAIM, [(*key_of(r), r.digest, b"", at + LIFETIME, at) for r in ordered]
    )
    new = {tuple(row) for row in claimed}
    digests = {key_of(r): r.digest for r in requests}
    names = {key_of(r): r.request_id for r in requests}
    kept = yield from fetch_each(_KEPT, [key_of(r) for r in ordered if key_of(r) not in new])
    return {
        (tenant, request_id): response
        if digest == digests[tenant, request_id]
        else reused(names[tenant, request_id])
        for tenant, request_id, digest, response in kept
    }


def answer(responses: Sequence[tuple[Key, bytes]]) -> Plan[None]:
    """Keeps what new requests are answered."""
    yield from each(_ANSWER, [(response, *key) for key, response in responses])


def unclaim(keys: Sequence[Key]) -> Plan[None]:
    """Frees the ids of requests that were refused: nothing happened."""
    yield from each(_UNCLAIM, list(keys))


def once(request: Request[T] | None, work: Callable[[], Plan[T]]) -> Plan[T | bytes]:
    """What `work` returns; with a request, its encoded form, or that of the first time."""
    if request is None:
        return (yield from work())
    used = yield from claim([request])
    match used.get(key_of(request)):
        case Rejection() as reused:
            raise reused
        case bytes() as response:
            return response
    response = request.encode((yield from work()))
    yield from answer([(key_of(request), response)])
    return response


def recall(request: Request[Any]) -> Plan[bytes | None]:
    """What a request was answered, if it was made already; nothing is claimed."""
    at = yield from now()
    row = yield from first(f"{_KEPT} AND claim_id = '' AND expires_at > ?", *key_of(request), at)
    if row is None:
        return None
    _, _, digest, response = row
    if digest != request.digest:
        raise reused(request.request_id)
    return bytes(response)


def prune(at: Instant) -> Plan[bool]:
    """Forgets requests that are old enough, some at a time; true if there are more."""
    gone = yield from fetch(
        "DELETE FROM requests WHERE (tenant, request_id) IN (SELECT tenant, request_id"
        " FROM requests WHERE expires_at <= ? LIMIT ? FOR UPDATE SKIP LOCKED) RETURNING 1",
        at,
        _PRUNED_AT_ONCE,
    )
    return len(gone) == _PRUNED_AT_ONCE


def reused(request_id: str) -> Rejection:
    return Rejection(
        Reason.REQUEST_ID_REUSED,
        f'request_id "{request_id}" was used with another body',
        request_id=request_id,
    )
