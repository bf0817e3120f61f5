"""A page that does not change while the service runs, and how it is sent."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from agentmesh_gateway.rest.asgi import Headers

_SMALLEST_WORTH_PACKING: Final = 1024


@dataclass(frozen=True)
class Page:
    """One page."""

    content_type: str
    body: bytes
    headers: Headers = field(default_factory=list)
    """Of this page alone."""

    @cached_property
    def packed(self) -> bytes:
        """The body as gzip; the same bytes at every replica."""
        return gzip.compress(self.body, 6, mtime=0)

    @cached_property
    def tag(self) -> str:
        """What the entity tags of its representations begin with."""
        return hashlib.sha256(self.body).hexdigest()[:32]

    def represent(self, accept_encoding: str) -> tuple[bytes, Headers]:
        """The bytes to send to a client, and what headers say of them."""
        packs = len(self.body) >= _SMALLEST_WORTH_PACKING and _takes_gzip(accept_encoding)
        body = self.packed if packs else self.body
        headers: Headers = [
            (b"content-type", self.content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"etag", f'"{self.tag}{"-gzip" if packs else ""}"'.encode()),
            (b"vary", b"accept-encoding"),
            # Kept, but asked for again each time: an upgrade shows at once.
            (b"cache-control", b"no-cache"),
            *self.headers,
        ]
        if packs:
            headers.append((b"content-encoding", b"gzip"))
        return body, headers


def _takes_gzip(accept_encoding: str) -> bool:
    for choice in accept_encoding.lower().split(","):
        coding, _, parameter = choice.partition(";")
        if coding.strip() == "gzip":
            weight = parameter.replace(" ", "").removeprefix("q=")
            return weight.strip("0.") != "" or not parameter
    return False


def is_known(if_none_match: str, headers: Headers) -> bool:
    """Whether a client has this representation already."""
    tag = dict(headers)[b"etag"].decode()
    known = {choice.strip().removeprefix("W/") for choice in if_none_match.split(",")}
    return tag in known or "*" in known
