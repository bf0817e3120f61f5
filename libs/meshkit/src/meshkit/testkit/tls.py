"""Certificates of a test CA."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


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


def make_client_certificate(authority: trustme.CA, *uris: str) -> tuple[bytes, bytes]:
    """A certificate whose only names are `uris`, and its key, both as PEM."""
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    signer = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names.append(x509.DNSName("client.test"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(cast("ec.EllipticCurvePrivateKey", signer), hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
