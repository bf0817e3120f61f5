"""Certificates of a test CA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; their names are those of the settings."""

    tls_cert_file: Path
    tls_key_file: Path
    tls_ca_file: Path

    def settings(self) -> dict[str, Path]:
        """As keyword arguments of ServiceSettings."""
        return {
            "tls_cert_file": self.tls_cert_file,
            "tls_key_file": self.tls_key_file,
            "tls_ca_file": self.tls_ca_file,
        }


def make_tls(folder: Path, authority: trustme.CA | None = None) -> TlsFiles:
    """A certificate for loopback in `folder`, by `authority` or a new one."""
    authority = authority or trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost", "::1")
    files = TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    folder.mkdir(parents=True, exist_ok=True)
    certificate.private_key_pem.write_to_path(str(files.tls_key_file))
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    files.tls_cert_file.write_bytes(chain)
    authority.cert_pem.write_to_path(str(files.tls_ca_file))
    return files
