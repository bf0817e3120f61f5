"""Whether a request was meant for this machine, as far as a browser says.

Listening on loopback keeps other machines out, but not the pages that a browser here shows: a page
can call loopback addresses, and with a name that it resolves to one it even reads the answers. Then
the Host header has that name, or the Origin header has the page's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from meshkit.errors import MeshError
from meshkit.settings import is_loopback

_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]*\]|[^:/@\[\]]*)(:\d*)?")
_ORIGIN = re.compile(r"https?://(?P<authority>[^/]*)")
_REMEDY = (
    "while no API key exists, only programs and pages of this machine are served, under the names "
    "localhost, 127.0.0.1 and [::1]; make a key with `agentmesh keys create` and send it"
)


def require_this_machine(headers: Mapping[bytes, bytes], allowed_origins: Collection[str]) -> None:
    """Raises MeshError UNAUTHENTICATED if the request names another host, or comes from its page.

    `allowed_origins` are pages elsewhere that the operator has named; "*" names none.
    """
    host = _text(headers, b"host")
    if not _is_local(host):
        raise MeshError.credentials_missing(f'the Host header is "{host[:100]}": {_REMEDY}')
    if b"origin" not in headers:
        return
    origin = _text(headers, b"origin")
    site = _ORIGIN.fullmatch(origin)
    if origin not in allowed_origins and not (site and _is_local(site["authority"])):
        raise MeshError.credentials_missing(f'the Origin header is "{origin[:100]}": {_REMEDY}')


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1").strip().lower()


def _is_local(authority: str) -> bool:
    parts = _AUTHORITY.fullmatch(authority)
    return parts is not None and is_loopback(parts["host"])
