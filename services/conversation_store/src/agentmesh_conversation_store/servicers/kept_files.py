"""What a manifest names must be there before it is recorded."""

from __future__ import annotations

from typing import Final, Protocol

from agentmesh.conversation_store.v1 import workspace_service_pb2 as pb
from meshkit.errors import MeshError

from agentmesh_conversation_store.blobs.interface import Blobs
from agentmesh_conversation_store.domain.rejections import Reason, Rejection, not_found
from agentmesh_conversation_store.storage.interface import Storage

# As many are found as soon as what a state names is read.
_FEW: Final = 1


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
        lacking = await self.lacking(place, field, change)
        if lacking is not None:
            raise lacking

    async def lacking(
        self, place: Place, field: str, change: pb.WorkspaceChange
    ) -> Rejection | None:
        """What refuses a change because a blob that it names is not there, if one is not.

        Raises MeshError of a change that cannot be meant.
        """
        manifest, field = change.manifest, f"{field}.manifest"
        unknown = {blob.digest: number for number, blob in enumerate(manifest.blobs)}
        if manifest.manifest_digest and manifest.manifest_digest not in unknown:
            raise MeshError.invalid(f"{field}.blobs", "the manifest itself must be one of them")
        if unknown and not manifest.manifest_digest:
            raise MeshError.invalid(f"{field}.manifest_digest", "there are blobs and no manifest")
        if unknown:
            await self._strike_known(place, unknown)
        for digest, number in unknown.items():
            try:
                await self._blobs.find(place.tenant, digest)
            except Rejection as rejection:
                if rejection.reason is not Reason.NOT_FOUND:
                    raise
                return not_found("blob", digest, f"{field}.blobs[{number}].digest")
        return None

    async def _strike_known(self, place: Place, unknown: dict[str, int]) -> None:
        """Takes away what the states of the files name, as long as that saves looking for it."""
        view = await self._storage.conversation(place.tenant, place.conversation_id)
        conversation = view.conversation
        states = (
            conversation.workspace_manifest,
            conversation.kept_manifest,
            conversation.before_manifest,
        )
        for manifest in dict.fromkeys(states):
            if not manifest or len(unknown) <= _FEW:
                continue
            for digest in await self._storage.manifest_blobs(place.tenant, manifest):
                unknown.pop(digest, None)
