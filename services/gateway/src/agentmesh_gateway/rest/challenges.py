"""WWW-Authenticate: how to log in, and what was wrong with what came (RFC 9110, RFC 6750)."""

from __future__ import annotations

import grpc
from google.rpc.status_pb2 import Status
from meshkit.errors import from_rich_status

from agentmesh_gateway.rest.asgi import Headers

HEADER = b"www-authenticate"
_REALM = 'realm="agentmesh"'
_BY_KEY = (HEADER, f'ApiKey {_REALM}, header="x-api-key"'.encode())
_UNAUTHENTICATED: int = grpc.StatusCode.UNAUTHENTICATED.value[0]
_PERMISSION_DENIED: int = grpc.StatusCode.PERMISSION_DENIED.value[0]
_REFUSED_TOKENS = {
    "CREDENTIALS_INVALID": 'error="invalid_token"',
    "CREDENTIALS_EXPIRED": 'error="invalid_token", error_description="the token has expired"',
}


def challenges(status: Status) -> Headers:
    """The challenges of a 401, and of a 403 that other scopes would help; else none."""
    if status.code == _UNAUTHENTICATED:
        return [(HEADER, _bearer(_REFUSED_TOKENS.get(_reason(status), ""))), _BY_KEY]
    if status.code == _PERMISSION_DENIED and _reason(status) == "SCOPE_MISSING":
        scope = from_rich_status(status).metadata.get("required_scope", "")
        return [(HEADER, _bearer(f'error="insufficient_scope", scope="{scope}"'))]
    return []


def _bearer(error: str) -> bytes:
    return ", ".join([f"Bearer {_REALM}", *([error] if error else [])]).encode()


def _reason(status: Status) -> str:
    return from_rich_status(status).reason_name
