"""What a call carries to say who makes it."""

from __future__ import annotations

from collections.abc import Iterable

from meshkit.errors import MeshError

Metadata = Iterable[tuple[str, str | bytes]]

CERTIFICATE_HEADER = "x-forwarded-client-cert"
SUBJECT_HEADER = "x-agentmesh-subject"
TENANT_HEADER = "x-agentmesh-tenant"
ROLE_HEADER = "x-agentmesh-role"
SCOPES_HEADER = "x-agentmesh-scopes"
PROXY_HEADERS = frozenset(
    {CERTIFICATE_HEADER, SUBJECT_HEADER, TENANT_HEADER, ROLE_HEADER, SCOPES_HEADER}
)
"""What a proxy of the mesh may say of its caller; see `proxies`."""
CREDENTIAL_HEADERS = frozenset({"authorization", "x-api-key"}) | PROXY_HEADERS
"""All metadata that says who calls."""

HOW_TO_SEND = "send it as `authorization: Bearer …` or `x-api-key: amk_…`"


def secret_of(metadata: Metadata) -> str:
    """The API key or token that a call carries; "" if it carries none."""
    for name, value in metadata:
        if name == "authorization":
            scheme, _, secret = text_of(value).strip().partition(" ")
            if scheme.lower() != "bearer" or not secret.strip():
                raise MeshError.credentials_invalid(
                    f"the authorization header is no bearer token; {HOW_TO_SEND}"
                )
            return secret.strip()
        if name == "x-api-key" and (secret := text_of(value).strip()):
            return secret
    return ""


def shown_in(metadata: Metadata) -> str:
    """As `secret_of`; "" for what is none."""
    try:
        return secret_of(metadata)
    except MeshError:
        return ""


def headers_of(metadata: Metadata) -> dict[str, str]:
    """What a proxy says of its caller; several headers of one name are joined by commas."""
    found: dict[str, str] = {}
    for name, value in metadata:
        if name in PROXY_HEADERS:
            text = text_of(value)
            found[name] = f"{found[name]},{text}" if name in found else text
    return found


def text_of(value: str | bytes) -> str:
    """Metadata as text."""
    return value.decode("latin-1") if isinstance(value, bytes) else value
