"""Files of conversations as they travel."""

from __future__ import annotations

from agentmesh.conversation_store.v1 import workspace_service_pb2 as pb

from agentmesh_conversation_store.domain.model import WorkspaceState
from agentmesh_conversation_store.domain.workspaces import Manifest, WorkspaceChange


def workspace_message(state: WorkspaceState) -> pb.WorkspaceState:
    """A state of the files."""
    return pb.WorkspaceState(generation=state.generation, manifest_digest=state.manifest)


def workspace_change(message: pb.WorkspaceChange) -> WorkspaceChange:
    """What is to become of the files."""
    manifest = message.manifest
    blobs = tuple({blob.digest: blob.size_bytes for blob in manifest.blobs}.items())
    return WorkspaceChange(message.base_generation, Manifest(manifest.manifest_digest, blobs))
