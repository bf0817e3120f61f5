"""Whose traces this gateway continues, by where their calls come from.

Not by their credentials: the span of a call begins before anybody has looked at these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentmesh_gateway.identity.peer import current_peer, grpc_peer
from agentmesh_gateway.identity.settings import trusted_peers
from agentmesh_gateway.local_calls import LocalContext


class TracePeers:
    """Vouches for networks and SPIFFE ids. Raises ValueError for what is neither."""

    def __init__(self, peers: Sequence[str]) -> None:
        self._nobody = not peers
        self._peers = trusted_peers(tuple(peers), "AGENTMESH_TRUSTED_TRACE_PEERS")

    def __call__(self, context: Any) -> bool:
        """Whether the trace that a call names is continued; always of a call that is a part of
        another one, for that has a trace of ours already."""
        if isinstance(context, LocalContext) and context.is_part:
            return True
        if self._nobody:
            return False
        if isinstance(context, LocalContext):
            return current_peer() in self._peers
        return grpc_peer(context.peer(), context.auth_context()) in self._peers
