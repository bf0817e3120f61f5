"""Which pages of browsers may connect where no browser asks beforehand."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError


def require_known_origin(headers: Mapping[bytes, bytes], allowed_origins: Collection[str]) -> None:
    """Raises MeshError PERMISSION_DENIED if the request comes from a page that is neither of this
    host nor of `allowed_origins`, where "*" is every page. Programs send no Origin."""
    if b"origin" not in headers:
        return
    origin = headers[b"origin"].decode("latin-1").strip().lower()
    host = headers.get(b"host", b"").decode("latin-1").strip().lower()
    own = origin in (f"http://{host}", f"https://{host}")
    if not own and origin not in allowed_origins and "*" not in allowed_origins:
        raise MeshError(
            grpc.StatusCode.PERMISSION_DENIED,
            errors_pb2.ERROR_REASON_ORIGIN_NOT_ALLOWED,
            f'pages of "{origin[:100]}" may not connect; AGENTMESH_CORS_ALLOW_ORIGINS names those '
            "that may",
            metadata={"origin": origin[:100]},
        )
