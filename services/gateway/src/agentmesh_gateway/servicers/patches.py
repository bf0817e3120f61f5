"""What of a conversation is to be changed, as the store takes it."""

from __future__ import annotations

from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from google.protobuf.duration_pb2 import Duration
from meshkit.errors import MeshError

_FIELDS = tuple(field.name for field in pb2.ConversationPatch.DESCRIPTOR.fields)


def to_store(request: pb2.UpdateConversationRequest) -> store_pb2.UpdateConversationRequest:
    """The fields that the mask names, with their values; without a mask those that are set.

    INVALID_ARGUMENT for a name that is no field, and for a mask that changes nothing.
    """
    patch = request.conversation
    paths = set(request.update_mask.paths) or {field.name for field, _ in patch.ListFields()}
    _check(paths, patch)
    wanted = store_pb2.UpdateConversationRequest(
        request_id=request.request_id,
        conversation_id=request.conversation_id,
        etag=request.etag,
        set_labels="labels" in paths,
        labels=patch.labels if "labels" in paths else None,
        max_rounds=patch.max_rounds if "max_rounds" in paths else None,
        legal_hold=patch.legal_hold if "legal_hold" in paths else None,
        retention_events=patch.retention_events if "retention_events" in paths else None,
    )
    if "visibility" in paths:
        wanted.visibility = patch.visibility
    if "budget" in paths:
        wanted.budget.CopyFrom(patch.budget)
    if "retention_age" in paths:
        age = patch.retention_age if patch.HasField("retention_age") else Duration()
        wanted.retention_age.CopyFrom(age)
    return wanted


def _check(paths: set[str], patch: pb2.ConversationPatch) -> None:
    unknown = sorted(paths - set(_FIELDS))
    if unknown:
        raise MeshError.invalid(
            "update_mask", f"{', '.join(unknown)}: no such field; there are {', '.join(_FIELDS)}"
        )
    if not paths:
        raise MeshError.invalid("conversation", "has nothing to change")
    if "max_rounds" in paths and patch.max_rounds <= 0:
        raise MeshError.invalid("conversation.max_rounds", "must be greater than 0")
    if "visibility" in paths and not patch.visibility:
        raise MeshError.invalid("conversation.visibility", "must be private or tenant")
    if patch.HasField("retention_age") and patch.retention_age.ToNanoseconds() < 0:
        raise MeshError.invalid("conversation.retention_age", "must not be negative")
