"""The certificate of the HTTP edge, followed like that of gRPC.

Which authority clients' certificates must be of is read once: OpenSSL settles that before it asks
which certificate to show.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import uvicorn
from meshkit.tls_files import FollowedFiles

MakeContext = Callable[[], ssl.SSLContext]


class _Contexts(FollowedFiles[ssl.SSLContext]):
    def __init__(self, files: list[Path], make_context: MakeContext) -> None:
        self._make_context = make_context
        super().__init__(files)

    def make(self) -> ssl.SSLContext:
        """See `FollowedFiles`."""
        return self._make_context()


def following(
    certificate: Path, key: Path
) -> Callable[[uvicorn.Config, MakeContext], ssl.SSLContext]:
    """For uvicorn's `ssl_context_factory`: handshakes show the certificate that the files have."""

    def make(_: uvicorn.Config, make_context: MakeContext) -> ssl.SSLContext:
        contexts = _Contexts([certificate, key], make_context)
        first = contexts.content

        def before_handshake(
            connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext
        ) -> None:
            contexts.look()
            if contexts.content is not first:
                connection.context = contexts.content

        first.sni_callback = before_handshake
        return first

    return make
