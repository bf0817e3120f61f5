"""Certificates in files, which are followed: who renews one restarts nothing."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar, cast

import grpc

from meshkit.settings import ServiceSettings

logger = logging.getLogger(__name__)

Content = TypeVar("Content")


class FollowedFiles(Generic[Content]):
    """What is made of some files, made anew when one of them is another. While they cannot be used,
    as in the middle of their replacement, what there was stays."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._seen: list[tuple[int, ...]] = []
        self.content = self._made()

    def look(self) -> bool:
        """Whether the content is another one now. Never raises."""
        try:
            states = [_state(file) for file in self._files]
            if states == self._seen:
                return False
            content = self.make()
        except (OSError, ValueError) as error:
            logger.error("certificates stay as they were: %s", error)
            return False
        self._seen, self.content = states, content
        logger.info("certificates were read again")
        return True

    def make(self) -> Content:
        """The content of the files as they are. Raises OSError or ValueError."""
        raise NotImplementedError

    def _made(self) -> Content:
        self._seen = [_state(file) for file in self._files]
        return self.make()


class ServerFiles(FollowedFiles[grpc.ServerCertificateConfiguration]):
    """A gRPC server's certificate and the authority of its clients."""

    def __init__(self, certificate: Path, key: Path, authority: Path | None) -> None:
        self._certificate, self._key, self._authority = certificate, key, authority
        super().__init__([certificate, key, *([authority] if authority else [])])

    def make(self) -> grpc.ServerCertificateConfiguration:
        """See `FollowedFiles`."""
        # gRPC itself looks at neither before a handshake; this one wants them to belong together.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            self._certificate, self._key
        )
        return grpc.ssl_server_certificate_configuration(
            [(self._key.read_bytes(), self._certificate.read_bytes())],
            self._authority.read_bytes() if self._authority else None,
        )

    def credentials(self, *, require_client: bool) -> grpc.ServerCredentials:
        """Looks at the files with each handshake."""

        def changed() -> grpc.ServerCertificateConfiguration | None:
            return self.content if self.look() else None

        # The stubs do not know that None means "as before".
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", changed)
        return grpc.dynamic_ssl_server_credentials(self.content, fetch, require_client)


def server_files(settings: ServiceSettings) -> ServerFiles | None:
    """Those that the settings name; None for plaintext. Raises OSError."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    authority = settings.tls_client_ca_file or settings.tls_ca_file
    return ServerFiles(settings.tls_cert_file, settings.tls_key_file, authority)


def _state(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
