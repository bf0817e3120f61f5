"""Chains of checkpoints that are too large for a grant, read in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from agentmesh.conversation_store.v1 import turn_service_pb2 as pb
from meshkit.context import RunCapability

from agentmesh_conversation_store.codec.grants import checkpoint_pieces
from agentmesh_conversation_store.storage.interface import CheckpointLink, Storage


async def read_checkpoints(
    storage: Storage, capability: RunCapability, checkpoint_id: str, most_bytes: int
) -> AsyncIterator[pb.ReadCheckpointsResponse]:
    """The chain of the capability's run, oldest first, in messages of about `most_bytes`."""
    links = await storage.checkpoint_links(
        capability.tenant, capability.run_id, capability.fence, checkpoint_id
    )
    for batch in _batches(links, most_bytes):
        response = pb.ReadCheckpointsResponse()
        size = 0
        for checkpoint in await storage.checkpoints(capability.tenant, batch):
            for piece in checkpoint_pieces(checkpoint, most_bytes):
                if response.pieces and size + len(piece.data) > most_bytes:
                    yield response
                    response, size = pb.ReadCheckpointsResponse(), 0
                response.pieces.append(piece)
                size += len(piece.data)
        yield response


def _batches(links: Sequence[CheckpointLink], most_bytes: int) -> Iterator[list[str]]:
    """What is read from the database at once: at least one, and no more than that together."""
    batch: list[str] = []
    weight = 0
    for link in links:
        if batch and weight + link.weight > most_bytes:
            yield batch
            batch, weight = [], 0
        batch.append(link.checkpoint_id)
        weight += link.weight
    if batch:
        yield batch
