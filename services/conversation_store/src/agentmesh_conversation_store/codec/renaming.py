"""Other ids for everything in a log, the same for the same."""

from __future__ import annotations

import hashlib

from agentmesh.conversation.v1 import event_pb2

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # as meshkit.ids


class Renaming:
    """Replaces ids, each by one that follows from it and from the new conversation's id."""

    def __init__(self, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        self._salt = conversation_id.encode()[:64]

    def __call__(self, name: str) -> str:
        """The other id; of none, none."""
        if not name:
            return ""
        digest = hashlib.blake2b(name.encode(), digest_size=16, key=self._salt).digest()
        value = int.from_bytes(digest, "big")
        letters = "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
        prefix, mark, _ = name.partition("_")
        return f"{prefix}_{letters}" if mark else letters

    def rename(self, event: event_pb2.Event) -> None:
        """Replaces every id in an event."""
        event.conversation_id = self.conversation_id
        event.run_id = self(event.run_id)
        match event.WhichOneof("kind"):
            case "message":
                event.message.message_id = self(event.message.message_id)
            case "run_started":
                started = event.run_started
                started.root_run_id = self(started.root_run_id)
                started.parent_run_id = self(started.parent_run_id)
            case "turn_discarded":
                discarded = event.turn_discarded
                discarded.message_ids[:] = [self(name) for name in discarded.message_ids]
            case "approval_requested":
                event.approval_requested.approval_id = self(event.approval_requested.approval_id)
            case "approval_resolved":
                event.approval_resolved.approval_id = self(event.approval_resolved.approval_id)
