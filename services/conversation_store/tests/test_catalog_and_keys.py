"""The catalog and API keys, over gRPC and from the command line."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from agentmesh.catalog.v1 import agent_pb2
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb
from agentmesh.conversation_store.v1 import identity_service_pb2 as identity_pb
from agentmesh_conversation_store.identity import PEPPER_FILE
from agentmesh_conversation_store.settings import StoreSettings
from agentmesh_conversation_store.storage.sqlite.storage import DATABASE_FILE
from google.protobuf.duration_pb2 import Duration
from meshkit.identity import SYSTEM, Principal
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import RunningStore
from services.conversation_store.tests.support import ACME, OTHER, acting

AGENT = catalog_pb.DOCUMENT_KIND_AGENT


def _agent(name: str, role: str = "writes") -> catalog_pb.Document:
    return catalog_pb.Document(
        kind=AGENT, name=name, agent=agent_pb2.AgentDefinition(id=name, role=role, version=99)
    )


async def _put(store: RunningStore, document: catalog_pb.Document, **fields: Any) -> Any:
    request = catalog_pb.PutDocumentRequest(document=document, **fields)
    return (await store.catalog.PutDocument(request, metadata=acting(ACME))).document


async def _get(store: RunningStore, name: str, version: int = 0, who: Principal = ACME) -> Any:
    request = catalog_pb.GetDocumentRequest(kind=AGENT, name=name, version=version)
    response = await store.catalog.GetDocument(request, metadata=acting(who))
    return response.document


async def _delete(store: RunningStore, name: str, **fields: Any) -> None:
    request = catalog_pb.DeleteDocumentRequest(kind=AGENT, name=name, **fields)
    await store.catalog.DeleteDocument(request, metadata=acting(ACME))


async def _versions(
    store: RunningStore, name: str, who: Principal = ACME, **fields: Any
) -> list[Any]:
    found: list[Any] = []
    request = catalog_pb.ListDocumentVersionsRequest(kind=AGENT, name=name, **fields)
    while True:
        page = await store.catalog.ListDocumentVersions(request, metadata=acting(who))
        assert page.documents
        found += page.documents
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


async def _names(store: RunningStore, who: Principal = ACME, **fields: Any) -> list[str]:
    names: list[str] = []
    token = ""
    while True:
        request = catalog_pb.ListDocumentsRequest(kind=AGENT, page_token=token, **fields)
        page = await store.catalog.ListDocuments(request, metadata=acting(who))
        names += [document.name for document in page.documents]
        token = page.next_page_token
        if not token:
            return names


async def test_a_tenants_document_hides_the_systems(store: RunningStore) -> None:
    publish = catalog_pb.PublishDocumentsRequest(documents=[_agent("a"), _agent("b")])
    published = await store.catalog.PublishDocuments(publish, metadata=acting(SYSTEM))
    assert [(d.name, d.version, d.system) for d in published.documents] == [
        ("a", 1, True),
        ("b", 1, True),
    ]
    await _put(store, _agent("a", "mine"))
    mine, theirs = await _get(store, "a"), await _get(store, "a", who=OTHER)
    assert (mine.agent.role, mine.system) == ("mine", False)
    assert (theirs.agent.role, theirs.system) == ("writes", True)
    assert await _names(store) == ["a", "b"]
    assert await _names(store, page_size=1) == ["a", "b"]
    assert await _names(store, names=["b", "nobody"]) == ["b"]
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="names"):
        await _names(store, names=[f"n{number}" for number in range(1001)])
    assert await _names(store, system=True) == ["b"]
    assert await _names(store, system=False) == ["a"]
    assert await _names(store, OTHER, system=True) == ["a", "b"]
    await _delete(store, "a")
    assert (await _get(store, "a")).system
    assert await _names(store, system=True) == ["a", "b"]
    for name in ("a", "b"):
        with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "BUILT_IN"):
            await _delete(store, name)
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await _delete(store, "nobody")


async def test_an_etag_may_be_that_of_the_document_to_hide(store: RunningStore) -> None:
    publish = catalog_pb.PublishDocumentsRequest(documents=[_agent("a")])
    await store.catalog.PublishDocuments(publish, metadata=acting(SYSTEM))
    shipped = await _get(store, "a")
    with raises_rich(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await _put(store, _agent("a", "mine"), etag="1-other")
    mine = await _put(store, _agent("a", "mine"), etag=shipped.etag)
    with raises_rich(grpc.StatusCode.ABORTED, "ETAG_MISMATCH") as refused:
        await _put(store, _agent("a", "again"), etag=shipped.etag)
    assert refused.error.metadata == {"current_etag": mine.etag}
    with raises_rich(grpc.StatusCode.ABORTED, "ETAG_MISMATCH") as refused:
        await _delete(store, "a", etag=shipped.etag)
    assert refused.error.metadata == {"current_etag": mine.etag}
    assert (await _get(store, "a")) == mine
    await _delete(store, "a", etag=mine.etag)
    with raises_rich(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await _put(store, _agent("nobody"), etag=mine.etag)


async def test_no_version_comes_twice(store: RunningStore) -> None:
    publish = catalog_pb.PublishDocumentsRequest(documents=[_agent("a", "one")])
    await store.catalog.PublishDocuments(publish, metadata=acting(SYSTEM))
    mine = await _put(store, _agent("a", "two"))
    assert mine.version == 2
    await _delete(store, "a")
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await _get(store, "a", version=2)
    assert [(v.version, v.system) for v in await _versions(store, "a")] == [(1, True)]
    publish.documents[0].agent.role = "released"
    await store.catalog.PublishDocuments(publish, metadata=acting(SYSTEM))
    again = await _put(store, _agent("a", "three"), must_be_new=True)
    assert again.version == 3
    expected = [(3, "three", False), (2, "two", False), (1, "one", True)]
    for size in (0, 1, 2):
        found = await _versions(store, "a", page_size=size)
        assert [(v.version, v.agent.role, v.system) for v in found] == expected
        assert all(v.agent.version == v.version for v in found)
    shipped = await _versions(store, "a", OTHER)
    assert [(v.version, v.agent.role) for v in shipped] == [(2, "released"), (1, "one")]
    await _put(store, _agent("own"))
    for name, who in (("nobody", ACME), ("own", OTHER)):
        with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
            await _versions(store, name, who)


async def test_a_page_of_documents_fits_into_a_response(store: RunningStore) -> None:
    for number in range(3):
        for name in ("a", f"big_{number}"):
            document = _agent(name)
            document.agent.system_message = str(number) * 200_000
            document.agent.component_config.update({"more": str(number) * 1_500_000})
            await _put(store, document)
    assert await _names(store) == ["a", "big_0", "big_1", "big_2"]
    assert [v.version for v in await _versions(store, "a")] == [3, 2, 1]


async def test_a_repeated_deletion_deletes_once(store: RunningStore) -> None:
    await _put(store, _agent("a"))
    with raises_rich(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await _delete(store, "a", request_id="d1", etag="old")
    await _delete(store, "a", request_id="d1")
    await _put(store, _agent("a"))
    await _delete(store, "a", request_id="d1")
    assert (await _get(store, "a")).version == 2
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await _delete(store, "b", request_id="d1")


async def test_a_request_is_known_by_what_it_was_made_of(store: RunningStore) -> None:
    """Whatever the document of the next attempt is."""
    first = await _put(store, _agent("a", "one"), request_id="p1", request_digest=b"one")
    again = _agent("a", "made of something newer")
    assert await _put(store, again, request_id="p1", request_digest=b"one") == first
    for attempt in (
        _put(store, _agent("a", "one"), request_id="p1", request_digest=b"other"),
        _put(store, _agent("a", "one"), request_id="p1"),
    ):
        with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
            await attempt
    assert (await _get(store, "a")) == first


async def test_publishing_what_is_there_adds_no_version(store: RunningStore) -> None:
    publish = catalog_pb.PublishDocumentsRequest(documents=[_agent("a")])
    for _ in range(3):
        published = await store.catalog.PublishDocuments(publish, metadata=acting(SYSTEM))
        assert published.documents[0].version == 1
    publish.documents[0].agent.role = "changed"
    published = await store.catalog.PublishDocuments(publish, metadata=acting(SYSTEM))
    assert published.documents[0].version == published.documents[0].agent.version == 2


async def test_versions_etags_and_repetition(store: RunningStore) -> None:
    first = await _put(store, _agent("a", "one"), request_id="p1")
    assert await _put(store, _agent("a", "one"), request_id="p1") == first
    second = await _put(store, _agent("a", "two"), etag=first.etag)
    assert (second.version, second.agent.version) == (2, 2)
    with raises_rich(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await _put(store, _agent("a", "three"), etag=first.etag)
    with raises_rich(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
        await _put(store, _agent("a"), must_be_new=True)
    assert (await _get(store, "a", version=1)).agent.role == "one"
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await _get(store, "a", version=3)
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await _get(store, "a", who=OTHER)


async def test_a_document_needs_its_definition(store: RunningStore) -> None:
    bad = catalog_pb.Document(
        kind=catalog_pb.DOCUMENT_KIND_TEAM, name="t", agent=agent_pb2.AgentDefinition(id="a")
    )
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="document.team"):
        await _put(store, bad)


async def test_keys_authenticate_until_they_are_revoked(store: RunningStore) -> None:
    ask = identity_pb.AuthenticateKeyRequest()
    assert not (await store.identity.AuthenticateKey(ask, metadata=acting(SYSTEM))).keys_exist
    create = identity_pb.CreateKeyRequest(role=options_pb2.ROLE_OPERATOR, name="ci")
    made = await store.identity.CreateKey(create, metadata=acting(ACME))
    assert made.secret.startswith("amk_")
    assert len(made.secret) == len("amk_") + 43
    check = identity_pb.AuthenticateKeyRequest(secret=made.secret)
    found = await store.identity.AuthenticateKey(check, metadata=acting(SYSTEM))
    assert (found.key.tenant, found.key.role) == ("acme", options_pb2.ROLE_OPERATOR)
    revoke = identity_pb.RevokeKeyRequest(key_id=made.key.key_id)
    with raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await store.identity.RevokeKey(revoke, metadata=acting(OTHER))
    revoked = await store.identity.RevokeKey(revoke, metadata=acting(ACME))
    assert await store.identity.RevokeKey(revoke, metadata=acting(ACME)) == revoked
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await store.identity.AuthenticateKey(check, metadata=acting(SYSTEM))
    assert (await store.identity.AuthenticateKey(ask, metadata=acting(SYSTEM))).keys_exist


async def test_a_key_expires(store: RunningStore) -> None:
    create = identity_pb.CreateKeyRequest(
        role=options_pb2.ROLE_VIEWER, ttl=Duration(nanos=50_000_000)
    )
    made = await store.identity.CreateKey(create, metadata=acting(ACME))
    await asyncio.sleep(0.1)
    check = identity_pb.AuthenticateKeyRequest(secret=made.secret)
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await store.identity.AuthenticateKey(check, metadata=acting(SYSTEM))


async def test_a_repeated_creation_gives_the_same_key_and_stores_no_secret(
    store: RunningStore,
) -> None:
    create = identity_pb.CreateKeyRequest(role=options_pb2.ROLE_ADMIN, request_id="k1")
    made = await store.identity.CreateKey(create, metadata=acting(ACME))
    assert await store.identity.CreateKey(create, metadata=acting(ACME)) == made
    listed = await store.identity.ListKeys(identity_pb.ListKeysRequest(), metadata=acting(ACME))
    assert list(listed.keys) == [made.key]
    for kept in await _everything_kept(store.settings):
        assert made.secret.encode() not in kept
        assert made.secret.removeprefix("amk_").encode() not in kept


async def _everything_kept(settings: StoreSettings) -> list[bytes]:
    """All files of a store, or all rows of its database."""
    if settings.postgres_url is None:
        return [f.read_bytes() for f in settings.data_dir.rglob("*") if f.is_file()]
    connection = await asyncpg.connect(settings.postgres_url.get_secret_value())
    await connection.execute("SET agentmesh.tenants = '{*}'")
    kept: list[bytes] = []
    for table in ("api_keys", "requests"):
        rows = await connection.fetch(f"SELECT * FROM {table}")  # noqa: S608 - our names
        assert rows
        for row in rows:
            kept += [v if isinstance(v, bytes) else str(v).encode() for v in row.values()]
    await connection.close()
    return kept


def _run(data_dir: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentmesh_conversation_store", *arguments],
        env={**os.environ, "AGENTMESH_DATA_DIR": str(data_dir), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_keys_are_made_on_the_command_line_while_the_service_runs(
    store: RunningStore,
) -> None:
    data_dir = store.settings.data_dir
    environment = _database_of(store.settings)
    made = await asyncio.to_thread(
        _run,
        data_dir,
        *("keys", "create", "--tenant", "acme", "--role", "admin", "--name", "me"),
        **environment,
    )
    assert made.returncode == 0, made.stderr
    check = identity_pb.AuthenticateKeyRequest(secret=made.stdout.strip())
    found = await store.identity.AuthenticateKey(check, metadata=acting(SYSTEM))
    assert (found.key.tenant, found.key.name) == ("acme", "me")
    listed = await asyncio.to_thread(
        _run, data_dir, "keys", "list", "--tenant", "acme", **environment
    )
    assert found.key.key_id in listed.stdout
    assert made.stdout.strip() not in listed.stdout
    await asyncio.to_thread(
        _run, data_dir, "keys", "revoke", found.key.key_id, "--tenant", "acme", **environment
    )
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await store.identity.AuthenticateKey(check, metadata=acting(SYSTEM))
    for name in () if environment else (PEPPER_FILE, DATABASE_FILE):
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600


def _database_of(settings: StoreSettings) -> dict[str, str]:
    if settings.postgres_url is None or settings.api_key_secret is None:
        return {}
    return {
        "POSTGRES_URL": settings.postgres_url.get_secret_value(),
        "API_KEY_SECRET": settings.api_key_secret.get_secret_value(),
    }


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("keys", "create", "--tenant", "acme", "--role", "boss"), "boss"),
        (("keys", "create", "--role", "admin"), "tenant"),
        (("keys", "revoke", "key_none", "--tenant", "acme"), "key_none"),
    ],
)
def test_wrong_commands_are_refused_in_one_breath(
    tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    refused = _run(tmp_path, *arguments)
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    assert complaint in said
    assert "Traceback" not in said
