"""Where a blob lies: <tenant>/<first two digits>/<digest>.

A tenant's name is encoded such that different names never share a folder, whatever they contain and
however long they are, also where file names know no difference between capitals and small letters.
"""

from __future__ import annotations

import re
import secrets

STAGING = "_staging"
"""The folder of uploads that have not ended. No tenant's folder is called so: in those an
underscore stands before two hexadecimal digits."""

_SEGMENT = 100
_CONTINUED = ".more"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ESCAPE = re.compile(rb"_([0-9a-f]{2})")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-")


def blob_key(tenant: str, digest: str) -> str:
    """The key of a blob. Raises ValueError for what is no digest."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError("not a SHA-256 in small hexadecimal digits")
    return f"{tenant_folder(tenant)}/{digest[:2]}/{digest}"


def tenant_folder(tenant: str) -> str:
    """The folder of a tenant: several levels if its name is long."""
    encoded = "".join(chr(b) if b in _PLAIN else f"_{b:02x}" for b in tenant.encode())
    segments = [encoded[i : i + _SEGMENT] for i in range(0, len(encoded), _SEGMENT)] or [""]
    return "/".join([*(s + _CONTINUED for s in segments[:-1]), segments[-1] or "_"])


def parse_key(key: str) -> tuple[str, str] | None:
    """Tenant and digest of a blob's key; None for any other key."""
    *segments, _, digest = ["", *key.split("/")]
    if not _DIGEST.fullmatch(digest):
        return None
    encoded = "".join(segment.removesuffix(_CONTINUED) for segment in segments)
    name = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), encoded.encode())
    tenant = "" if encoded == "_" else name.decode("utf-8", "replace")
    # Files that others put there are not taken for blobs.
    return (tenant, digest) if blob_key(tenant, digest) == key else None


def staging_key() -> str:
    """A key that no other upload has."""
    return f"{STAGING}/{secrets.token_hex(16)}"
