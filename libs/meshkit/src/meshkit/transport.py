"""How bytes travel: HTTP/2 options, message limits, TLS."""

from __future__ import annotations

from pathlib import Path

import grpc

from meshkit.open_files import connections_that_fit
from meshkit.settings import PREFIX, ServiceSettings, is_loopback
from meshkit.tls_files import server_files

Options = list[tuple[str, int | str]]

_KEEPALIVE_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 10_000


class StartupError(Exception):
    """The service cannot start; the message is one line for the operator."""


def server_options(settings: ServiceSettings) -> Options:
    """Options of a server. Clients may ping every 10 s, idle or not, and are pinged themselves."""
    return [
        *_message_limits(settings),
        *connection_limit(*connections_that_fit(settings.max_connections)),
        # From the first byte of TLS to the first frame of HTTP/2.
        ("grpc.server_handshake_timeout_ms", round(settings.handshake_seconds * 1000)),
        # Two servers on one port would share its calls at random: let the second one fail.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", 2 * _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def connection_limit(most: int) -> Options:
    """At most so many connections at once; 0 is no limit. One more is closed without a word."""
    return [("grpc.max_allowed_incoming_connections", most)] if most else []


def channel_options(settings: ServiceSettings) -> Options:
    """Options of a channel. Pings keep long idle streams alive and notice peers that vanished."""
    return [
        *_message_limits(settings),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        # A service that restarts is back within a second or two: look for it that often.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        ("grpc.use_local_subchannel_pool", 1),
    ]


def _message_limits(settings: ServiceSettings) -> Options:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
    ]


def check_exposure(settings: ServiceSettings) -> None:
    """Raises StartupError if others could connect and no secret keeps them out."""
    if not settings.has_internal_secret and not is_loopback(settings.grpc_host):
        raise StartupError(
            f"refusing to listen on {settings.grpc_host}: without {PREFIX}INTERNAL_SECRET a "
            "service binds loopback only; set it, the same for every service, or use 127.0.0.1"
        )


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """TLS as configured, with client certificates if they are required; None for plaintext."""
    try:
        files = server_files(settings)
    except OSError as error:
        raise StartupError(f"cannot use the certificates of this service: {error}") from None
    if files is None:
        return None
    return files.credentials(require_client=settings.tls_require_client_cert)


def channel_credentials(settings: ServiceSettings) -> grpc.ChannelCredentials | None:
    """TLS as configured, showing this service's own certificate; None for plaintext."""
    if settings.tls_ca_file is None and settings.tls_cert_file is None:
        return None
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    return grpc.ssl_channel_credentials(
        root_certificates=_read(settings.tls_ca_file) if settings.tls_ca_file else None,
        private_key=_read(key) if key else None,
        certificate_chain=_read(certificate) if certificate else None,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}") from None
