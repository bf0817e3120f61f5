"""What a storage can be asked, for each of its methods: a tenant's own answers and their rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from agentmesh_conversation_store.domain.access import Caller
from agentmesh_conversation_store.domain.conversations import CancelConversation, SendMessage
from agentmesh_conversation_store.domain.events import UserMessage
from agentmesh_conversation_store.domain.forks import Fork
from agentmesh_conversation_store.domain.history import DeleteConversation
from agentmesh_conversation_store.domain.keys import ApiKey, Grantor, KeyRotation
from agentmesh_conversation_store.domain.ledger import (
    AuditQuery,
    AuditRecord,
    Dimension,
    TenantPolicy,
    UsageQuery,
)
from agentmesh_conversation_store.domain.model import Strategy
from agentmesh_conversation_store.domain.rejections import Rejection
from agentmesh_conversation_store.domain.search import parse_query
from agentmesh_conversation_store.domain.usage import NO_USAGE
from agentmesh_conversation_store.storage.catalog import (
    DocumentDeletion,
    DocumentQuery,
    DocumentWrite,
    NewDocument,
)
from agentmesh_conversation_store.storage.claims import Claim
from agentmesh_conversation_store.storage.interface import (
    ApprovalQuery,
    ConversationQuery,
    Storage,
)
from agentmesh_conversation_store.storage.requests import Request
from agentmesh_conversation_store.storage.transfer import Arrivals
from meshkit.roles import Role

from services.conversation_store.tests.neighbours import EVERYTHING as ALL
from services.conversation_store.tests.neighbours import NAMES
from services.conversation_store.tests.support import AUDIT_KEYS, start_command
from services.conversation_store.tests.work import begin

Answer = Mapping[Any, Any]
Question = Callable[[Storage, str], Awaitable[Answer]]
MANY = 1000
HUGE = 10**9


async def _of_each(things: Iterable[Any], ask: Callable[[Any], Awaitable[Any]]) -> Answer:
    """What is said of each; a refusal is an answer."""
    answers: dict[Any, Any] = {}
    for thing in things:
        try:
            answers[thing] = await ask(thing)
        except Rejection as refusal:
            answers[thing] = (refusal.reason, str(refusal))
    return answers


async def _conversations(storage: Storage, tenant: str) -> Answer:
    queries = [ConversationQuery(MANY), *(ConversationQuery(MANY, agent=name) for name in NAMES)]
    queries += [ConversationQuery(MANY, text=parse_query(word)) for word in ALL.words]
    return await _of_each(queries, lambda query: storage.conversations(tenant, query))


async def _events(storage: Storage, tenant: str) -> Answer:
    return await _of_each(
        ALL.conversations, lambda name: storage.events(tenant, name, 0, MANY, HUGE)
    )


async def _marks(storage: Storage, tenant: str) -> Answer:
    return await _of_each(ALL.conversations, lambda name: storage.context_marks(tenant, name, MANY))


async def _heads(storage: Storage, tenant: str) -> Answer:
    return await storage.heads([(tenant, name) for name in ALL.conversations])


async def _feed(storage: Storage, tenant: str) -> Answer:
    return {after: await storage.feed(tenant, after, MANY, HUGE) for after in (0, 5)}


async def _approvals(storage: Storage, tenant: str) -> Answer:
    queries = [ApprovalQuery(MANY), ApprovalQuery(MANY, conversation_id="conv_q")]
    return await _of_each(queries, lambda query: storage.approvals(tenant, query))


async def _granted_turns(storage: Storage, tenant: str) -> Answer:
    run = (await storage.conversation(tenant, "conv_a")).run
    return {"turns": await storage.granted_turns([run], HUGE)}


async def _links(storage: Storage, tenant: str) -> Answer:
    asked = [
        (run_id, fence, checkpoint_id)
        for run_id in ALL.runs
        for fence in range(6)
        for checkpoint_id in ALL.checkpoints
    ]
    return await _of_each(asked, lambda one: storage.checkpoint_links(tenant, *one))


async def _documents(storage: Storage, tenant: str) -> Answer:
    queries = [DocumentQuery(1, names) for names in ((), ("doc",))]
    queries += [DocumentQuery(1, system=system) for system in (True, False)]
    return await _of_each(queries, lambda query: storage.documents(tenant, query, MANY))


async def _recall(storage: Storage, tenant: str) -> Answer:
    request: Request[None] = Request(tenant, "audit", b"d", lambda _: b"")
    return {"audit": await storage.recall(request)}


async def _usage(storage: Storage, tenant: str) -> Answer:
    return {
        dimension: await storage.summarize_usage(tenant, UsageQuery(dimension, MANY))
        for dimension in Dimension
    }


async def _execute(storage: Storage, tenant: str) -> Answer:
    def step(run_id: str) -> Awaitable[Any]:
        run = replace(start_run, run_id=run_id)
        return storage.execute(begin(run, "a/9", attempt_id="attempt", reservation=NO_USAGE))

    start_run = (await storage.conversation(tenant, "conv_a")).run
    stepped = await _of_each(ALL.runs, step)
    body = UserMessage("msg_new", "user", "new", "alice")
    said = await _of_each(
        ALL.conversations,
        lambda name: storage.execute(
            SendMessage(
                tenant,
                name,
                replace(body, message_id=f"new_{name}"),
                Strategy.AFTER_TURN,
                f"run_new_{name}_{tenant}",
                "",
            )
        ),
    )
    cancelled = await _of_each(
        ALL.conversations,
        lambda name: storage.execute(CancelConversation(tenant, name, "enough")),
    )
    deleted = await _of_each(
        ("conv_b", *ALL.conversations[-2:]),
        lambda name: storage.execute(DeleteConversation(tenant, name)),
    )
    return {"stepped": stepped, "said": said, "cancelled": cancelled, "deleted": deleted}


async def _execute_once(storage: Storage, tenant: str) -> Answer:
    request: Request[Any] = Request(tenant, "twice", tenant.encode(), lambda v: tenant.encode())
    command = start_command(tenant, conversation_id="conv_new", run_id=f"run_new_{tenant}")
    return {n: await storage.execute_once(command, request) for n in range(2)}


async def _fork(storage: Storage, tenant: str) -> Answer:
    return await _of_each(
        ALL.conversations,
        lambda name: storage.fork(
            Fork(tenant, name, 0, f"fork_{name}", f"run_fork_{name}_{tenant}", "alice")
        ),
    )


async def _put_documents(storage: Storage, tenant: str) -> Answer:
    def put(name: str) -> Awaitable[Any]:
        write = DocumentWrite([NewDocument(1, name, b"new", "new")])
        return storage.put_documents(tenant, write)

    return await _of_each(ALL.documents, put)


async def _add_key(storage: Storage, tenant: str) -> Answer:
    key = ApiKey("key_new", tenant, Role.OPERATOR, "new", await storage.now())
    request: Request[ApiKey] = Request(tenant, "key", tenant.encode(), lambda key: b"kept")
    secret = f"new {tenant}".encode()
    return {n: await storage.add_key(key, secret, request) for n in range(2)}


async def _rotate_key(storage: Storage, tenant: str) -> Answer:
    async def rotate(key_id: str) -> ApiKey | bytes:
        secret = f"new secret of {tenant} {key_id}".encode()
        by = Grantor("me", Role.ADMIN)
        rotation = KeyRotation(tenant, key_id, await storage.now(), 5, by)
        return await storage.rotate_key(rotation, secret)

    return await _of_each(ALL.keys, rotate)


async def _append_audit(storage: Storage, tenant: str) -> Answer:
    record = AuditRecord(tenant, "again:0", 5, "me", "M", "r", "OK", "peer")
    request: Request[None] = Request(tenant, "again", b"d", lambda _: b"")
    await storage.append_audit([record], request)
    return await _audit(storage, tenant)


async def _audit(storage: Storage, tenant: str) -> Answer:
    return {"records": await storage.list_audit(tenant, AuditQuery(MANY))}


async def _chain(storage: Storage, tenant: str) -> Answer:
    return {
        after: await storage.audit_page(tenant, AUDIT_KEYS, after, 0, MANY) for after in (0, MANY)
    }


async def _seal_audit(storage: Storage, tenant: str) -> Answer:
    sealing = await storage.seal_audit(tenant, AUDIT_KEYS, MANY)
    return {"sealing": sealing, **await _chain(storage, tenant)}


async def _remove_audit(storage: Storage, tenant: str) -> Answer:
    removal = await storage.remove_audit(tenant, AUDIT_KEYS, 2**62, MANY)
    return {"removal": removal, **await _chain(storage, tenant)}


async def _claim(storage: Storage, tenant: str) -> Answer:
    request: Request[None] = Request(tenant, "claimed", b"d", lambda _: b"")
    claim = Claim(request, "claim_1", 10)
    return {
        "taken": await storage.claim_request(claim),
        "renewed": await storage.renew_request(claim, b"note"),
        "finished": await storage.finish_request(claim, b"answer"),
        "again": await storage.claim_request(claim),
    }


async def _policy(storage: Storage, tenant: str) -> Answer:
    put = await storage.put_tenant_policy(TenantPolicy(tenant, max_active_runs=1), "v1")
    return {"put": put, "read": await storage.tenant_policy(tenant)}


async def _add_arrivals(storage: Storage, tenant: str) -> Answer:
    return await _of_each(
        ALL.conversations, lambda name: storage.add_arrivals(tenant, name, Arrivals())
    )


async def _begin_import(storage: Storage, tenant: str) -> Answer:
    return await _of_each(
        ("conv_fresh", *ALL.conversations),
        lambda name: storage.begin_import(tenant, name, f"run_import_{name}_{tenant}"),
    )


async def _finish_import(storage: Storage, tenant: str) -> Answer:
    view = await storage.conversation(tenant, f"conv_{tenant}")

    def finish(name: str) -> Awaitable[Any]:
        run = replace(view.run, run_id=f"run_i_{tenant}", conversation_id=name)
        conversation = replace(view.conversation, conversation_id=name, root_run_id=run.run_id)
        brought = replace(view, conversation=conversation, run=run)
        return storage.finish_import(brought, b"", ())

    return await _of_each(("conv_i", "conv_fresh"), finish)


def _each(names: tuple[Any, ...], method: str, *arguments: Any) -> Question:
    """Asks a method for each of these things."""

    async def ask(storage: Storage, tenant: str) -> Answer:
        bound = getattr(storage, method)
        return await _of_each(names, lambda name: bound(tenant, name, *arguments))

    return ask


QUESTIONS: dict[str, Question] = {
    "conversation": _each(ALL.conversations, "conversation"),
    "definition": _each(("digest",), "definition"),
    "conversations": _conversations,
    "events": _events,
    "context_marks": _marks,
    "tail": _each(ALL.conversations, "tail", 3),
    "heads": _heads,
    "feed": _feed,
    "feed_heads": lambda storage, tenant: storage.feed_heads([tenant]),
    "blob_references": _each(ALL.conversations, "blob_references"),
    "referenced_blobs": _each(tuple((d,) for d in ALL.digests), "referenced_blobs"),
    "manifest_blobs": _each(ALL.manifests, "manifest_blobs"),
    "approval": _each(ALL.approvals, "approval"),
    "approvals": _approvals,
    "access": lambda storage, tenant: _of_each(
        ALL.conversations,
        lambda name: storage.access(tenant, name, Caller(f"{tenant} guest", Role.USER)),
    ),
    "grants": _each(ALL.conversations, "grants", "", MANY),
    "granted_turns": _granted_turns,
    "checkpoint_links": _links,
    "checkpoints": _each(tuple((c,) for c in ALL.checkpoints), "checkpoints"),
    "document": lambda storage, tenant: _of_each(
        [(name, version) for name in ALL.documents for version in (0, 1, 2)],
        lambda one: storage.document(tenant, 1, *one),
    ),
    "documents": _documents,
    "document_versions": lambda storage, tenant: _of_each(
        ALL.documents, lambda name: storage.document_versions(tenant, 1, name, MANY, MANY)
    ),
    "recall": _recall,
    "keys": lambda storage, tenant: _of_each(
        (None, (2**62, "z")), lambda before: storage.keys(tenant, before, MANY)
    ),
    "summarize_usage": _usage,
    "list_audit": _audit,
    "audit_page": _chain,
    "tenant_policy": lambda storage, tenant: _of_each([tenant], storage.tenant_policy),
    "departing": _each(ALL.conversations, "departing"),
    "outdated": lambda storage, tenant: _of_each(
        ("", "conv_a"), lambda after: storage.outdated(tenant, after, MANY)
    ),
    # What follows changes something, each after the one before.
    "put_tenant_policy": _policy,
    "put_documents": _put_documents,
    "delete_document": lambda storage, tenant: _of_each(
        ALL.documents,
        lambda name: storage.delete_document(tenant, DocumentDeletion(1, name, "agent")),
    ),
    "add_key": _add_key,
    "rotate_key": _rotate_key,
    "revoke_key": _each(ALL.keys, "revoke_key"),
    "append_audit": _append_audit,
    "claim_request": _claim,
    "renew_request": _claim,
    "finish_request": _claim,
    "seal_audit": _seal_audit,
    "remove_audit": _remove_audit,
    "fork": _fork,
    "cut_history": _each(ALL.conversations, "cut_history"),
    "begin_import": _begin_import,
    "add_arrivals": _add_arrivals,
    "finish_import": _finish_import,
    "give_up_import": _each(ALL.conversations, "give_up_import"),
    "execute": _execute,
    "execute_once": _execute_once,
}
OF_ALL_TENANTS = {
    "open": "the database",
    "close": "the database",
    "on_commit": "says whose it is",
    "now": "the clock",
    "grant": "the queue of all tenants; each run says whose it is",
    "renew": "leases of a worker, by run ids of all tenants",
    "open_lease_stream": "a worker's",
    "end_lease_stream": "a worker's",
    "due": "the queue of all tenants; each says whose it is",
    "raised_fences": "of all tenants; each says whose it is",
    "prune": "by age alone",
    "usable_key": "finds out whose a secret is",
    "note_key_uses": "each says whose it is",
    "keys_exist": "whether any tenant has one",
    "tenants_with_retention": "lists tenants",
    "tenants_to_seal": "lists tenants",
    "audited_tenants": "lists tenants",
    "reconsider_audit": "of all tenants; says how many",
    "tenants_to_keep_short": "lists tenants",
    "remove_some": "of all tenants; says whose it was",
}
