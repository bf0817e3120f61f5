"""WorkspaceService, and files in the calls of workers, over the wire."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation_store.v1 import blob_service_pb2 as blob_pb
from agentmesh.conversation_store.v1 import workspace_service_pb2 as pb
from agentmesh.conversation_store.v1 import workspace_service_pb2_grpc as pb_grpc
from meshkit.channels import call_metadata
from meshkit.context import SYSTEM
from meshkit.errors import MeshError, from_rpc_error
from meshkit.identity import InternalIdentity, Principal, use_identity

from services.conversation_store.tests.driver import RunningStore, Turn
from services.conversation_store.tests.support import ACME, OTHER, acting, turn_pb
from services.conversation_store.tests.uploads import stub, upload

pytestmark = pytest.mark.asyncio


def service(store: RunningStore) -> Any:
    """WorkspaceService."""
    return pb_grpc.WorkspaceServiceStub(store.channel)


async def refusal(call: Any) -> MeshError:
    """Why a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)


def change(base: int, digest: str, *blobs: str) -> pb.WorkspaceChange:
    """To a manifest, with the blobs that it needs."""
    manifest = pb.WorkspaceManifest(
        manifest_digest=digest,
        blobs=[pb.WorkspaceBlob(digest=each, size_bytes=1) for each in blobs],
    )
    return pb.WorkspaceChange(base_generation=base, manifest=manifest)


async def get(
    store: RunningStore, name: str, principal: Principal = ACME
) -> pb.GetWorkspaceResponse:
    request = pb.GetWorkspaceRequest(conversation_id=name)
    response: pb.GetWorkspaceResponse = await service(store).GetWorkspace(
        request, metadata=acting(principal)
    )
    return response


def save(store: RunningStore, name: str, wanted: pb.WorkspaceChange) -> Any:
    request = pb.SaveWorkspaceRequest(
        conversation_id=name, change=wanted, earlier=[change(0, ""), change(0, "")]
    )
    return service(store).SaveWorkspace(request, metadata=acting(ACME))


async def test_people_save_files_and_read_where_they_stand(store: RunningStore) -> None:
    name = (await store.start_conversation()).conversation_id
    empty = await get(store, name)
    assert (empty.workspace.generation, len(empty.earlier)) == (0, 2)
    blob = (await upload(store, b"a manifest")).digest
    saved = await save(store, name, change(0, blob, blob))
    assert (saved.workspace.generation, saved.workspace.manifest_digest) == (1, blob)
    assert (await get(store, name)).workspace == saved.workspace
    moved = await refusal(save(store, name, change(0, blob, blob)))
    assert moved.reason == errors_pb2.ERROR_REASON_WORKSPACE_MOVED
    assert moved.metadata["generation"] == "1"


async def test_files_of_others_are_unknown(store: RunningStore) -> None:
    name = (await store.start_conversation()).conversation_id
    request = pb.GetWorkspaceRequest(conversation_id=name)
    refused = await refusal(service(store).GetWorkspace(request, metadata=acting(OTHER)))
    assert refused.reason == errors_pb2.ERROR_REASON_NOT_FOUND


@pytest.mark.parametrize(
    ("digest", "blobs", "field"),
    [
        ("f" * 64, ["f" * 64], "change.manifest.blobs[0].digest"),
        ("f" * 64, [], "change.manifest.blobs"),
        ("", ["f" * 64], "change.manifest.manifest_digest"),
        ("F", [], "change.manifest.manifest_digest"),
    ],
)
async def test_a_manifest_that_cannot_be_is_refused_by_its_field(
    store: RunningStore, digest: str, blobs: list[str], field: str
) -> None:
    name = (await store.start_conversation()).conversation_id
    refused = await refusal(save(store, name, change(0, digest, *blobs)))
    assert [violation.field for violation in refused.violations] == [field]


async def write_blob(turn: Turn, data: bytes) -> str:
    """Uploads under a run's capability."""

    async def requests() -> AsyncIterator[blob_pb.WriteBlobRequest]:
        yield blob_pb.WriteBlobRequest(size_bytes=len(data), chunk=data)

    response = await stub(turn.store).WriteBlob(requests(), metadata=turn.metadata)
    assert response.size_bytes == len(data)
    digest: str = response.digest
    return digest


def as_tool_runner(store: RunningStore, turn: Turn) -> Any:
    """Metadata of the same capability, from a tool_runner."""
    use_identity(InternalIdentity("tool_runner", store.settings))
    try:
        return call_metadata(SYSTEM, turn.grant.capability)
    finally:
        use_identity(InternalIdentity("agent_runtime", store.settings))


async def test_a_tool_call_carries_its_files_through_claim_record_and_grant(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    assert not turn.grant.HasField("workspace")
    turn.metadata = as_tool_runner(store, turn)
    tool = {"kind": turn_pb.STEP_KIND_TOOL, "runner_address": "10.0.0.7:50054"}
    assert not (await turn.begin("c1", **tool)).HasField("workspace")
    digest = await write_blob(turn, b"manifest 1")
    assert digest == hashlib.sha256(b"manifest 1").hexdigest()
    recorded = await turn.record("c1", workspace=change(0, digest, digest))
    assert recorded.workspace_generation == 1
    claimed = await turn.begin("c2", **tool)
    assert (claimed.workspace.generation, claimed.workspace.manifest_digest) == (1, digest)
    lost = change(1, "e" * 64, "e" * 64)
    refused = await refusal(turn.record("c2", workspace=lost))
    assert refused.violations[0].field == "workspace.manifest.blobs[0].digest"
    await turn.record("c2")
    committed = await turn.commit("RUNNABLE", want_next=True)
    assert committed.next.workspace.generation == 1
    assert committed.next.runner_address == "10.0.0.7:50054"


async def test_a_record_is_repeated_although_its_files_are_gone_by_now(
    store: RunningStore,
) -> None:
    worker = await store.worker()
    await store.start_conversation()
    turn = await worker.granted()
    turn.metadata = as_tool_runner(store, turn)
    digests = [await write_blob(turn, f"manifest {number}".encode()) for number in range(3)]
    answers = []
    for number in range(2):
        await turn.begin(f"c{number}", kind=turn_pb.STEP_KIND_TOOL)
        wanted = change(number, digests[number], digests[number])
        answers.append(await turn.record(f"c{number}", workspace=wanted))
    for gone in (digests[0], digests[2]):
        for path in store.settings.data_dir.rglob(f"*{gone[4:]}*"):
            path.unlink()
    again = await turn.record("c0", workspace=change(0, digests[0], digests[0]))
    assert again.first_sequence == answers[0].first_sequence
    await turn.begin("c2", kind=turn_pb.STEP_KIND_TOOL)
    lost = await refusal(turn.record("c2", workspace=change(2, digests[2], digests[2])))
    assert lost.violations[0].field == "workspace.manifest.blobs[0].digest"


async def test_a_runner_hears_that_a_conversation_waits(store: RunningStore) -> None:
    worker = await store.worker()
    name = (await store.start_conversation()).conversation_id
    turn = await worker.granted()
    turn.metadata = as_tool_runner(store, turn)
    watch = store.turns.WatchFences(turn_pb.WatchFencesRequest(worker_id="runner"))
    first = await watch.read()
    assert not first.raised
    await turn.begin("c1", kind=turn_pb.STEP_KIND_TOOL)
    await turn.record("c1")
    await turn.commit("WAITING")
    async with asyncio.timeout(20):
        told = (await watch.read()).raised
    watch.cancel()
    assert [(each.conversation_id, each.rests) for each in told] == [(name, True)]
    assert not (await get(store, name)).runner_address
