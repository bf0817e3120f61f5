"""What a manifest names must be there before it is recorded."""

from __future__ import annotations

from typing import Protocol

from agentmesh.conversation_store.v1 import workspace_service_pb2 as pb
from meshkit.errors import MeshError

from agentmesh_conversation_store.blobs.interface import Blobs
from agentmesh_conversation_store.domain.rejections import Reason, Rejection, not_found
from agentmesh_conversation_store.storage.interface import Storage


class Place(Protocol):
    """Whose files they are."""

    @property
    def tenant(self) -> str: ...

    @property
    def conversation_id(self) -> str: ...


class KeptFiles:
    """Checks changes of workspaces.

    Blobs that the present state of the files names are kept as long as it is the present one, which
    the transaction that records the change makes sure of. All others were just uploaded, so that
    they are young and not collected.
    """

    def __init__(self, storage: Storage, blobs: Blobs) -> None:
        self._storage = storage
        self._blobs = blobs

    async def require(self, place: Place, field: str, change: pb.WorkspaceChange) -> None:
        """Refuses a change that names a blob which is not there."""
        view = await self._storage.conversation(place.tenant, place.conversation_id)
        conversation = view.conversation
        known: set[str] = set()
        for manifest in {
            conversation.workspace_manifest,
            conversation.kept_manifest,
            conversation.before_manifest,
        }:
            if manifest:
                known |= await self._storage.manifest_blobs(place.tenant, manifest)
        await self._one(place.tenant, f"{field}.manifest", change.manifest, known)

    async def _one(
        self, tenant: str, field: str, manifest: pb.WorkspaceManifest, known: set[str]
    ) -> None:
        digests = [blob.digest for blob in manifest.blobs]
        if manifest.manifest_digest and manifest.manifest_digest not in digests:
            raise MeshError.invalid(f"{field}.blobs", "the manifest itself must be one of them")
        if digests and not manifest.manifest_digest:
            raise MeshError.invalid(f"{field}.manifest_digest", "there are blobs and no manifest")
        for number, digest in enumerate(digests):
            if digest in known:
                continue
            try:
                await self._blobs.find(tenant, digest)
            except Rejection as rejection:
                if rejection.reason is not Reason.NOT_FOUND:
                    raise
                raise not_found("blob", digest, f"{field}.blobs[{number}].digest") from rejection
            known.add(digest)
