"""Everything the gateway can be told, from the environment or a YAML file."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from meshkit.settings import Port, ServiceSettings, is_loopback
from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator

from agentmesh_gateway.http.proxies import TrustedProxies
from agentmesh_gateway.identity.settings import (
    Header,
    OidcIssuer,
    SpiffeId,
    check_issuers,
    trusted_peers,
)
from agentmesh_gateway.limits.redis_buckets import check_url

_RECHECK_SECONDS_UNCACHED = 1.0
_ORIGIN = re.compile(r"https?://[^\s/?#@*]+")


class GatewaySettings(ServiceSettings):
    """Settings of the gateway; the README has a table of them."""

    grpc_port: Port = 50051
    app_host: str = Field(
        default="127.0.0.1", validation_alias=AliasChoices("app_host", "APP_HOST")
    )
    app_port: Port = Field(default=8000, validation_alias=AliasChoices("app_port", "APP_PORT"))
    app_debug: bool = Field(default=False, validation_alias=AliasChoices("app_debug", "APP_DEBUG"))
    http_tls: bool = False
    allow_anonymous: bool = False
    key_cache_seconds: float = Field(default=5.0, ge=0, le=10)
    max_rounds: int = Field(
        default=50,
        gt=0,
        le=10_000,
        validation_alias=AliasChoices("max_rounds", "AUTOGEN_MAX_ROUNDS"),
    )
    human_in_loop: bool = Field(
        default=True, validation_alias=AliasChoices("human_in_loop", "ENABLE_HUMAN_IN_LOOP")
    )
    heartbeat_seconds: float = Field(default=10.0, gt=0, le=15)
    upstream_patience_seconds: float = Field(default=20.0, ge=0, le=600)
    sse_keep_alive_seconds: float = Field(default=15.0, gt=0, le=300)
    http_keep_alive_seconds: int = Field(default=75, ge=1, le=3600)
    metrics_token: SecretStr | None = Field(default=None, min_length=16)
    access_log: bool = True
    access_log_reads: float = Field(default=0.1, ge=0, le=1)
    audit_reads: bool = False
    audit_queue: int = Field(default=10_000, ge=100, le=1_000_000)
    oidc: tuple[OidcIssuer, ...] = ()
    spiffe_ids: tuple[SpiffeId, ...] = ()
    trusted_peers: tuple[str, ...] = ()
    trusted_headers: tuple[Header, ...] = ()
    trusted_trace_peers: tuple[str, ...] = ()
    http_client_cert: Literal["ignored", "accepted", "required"] = "ignored"
    cors_allow_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    hsts_seconds: int = Field(default=31_536_000, ge=0)

    # What one connection may do, and how many there may be; 0 is no limit.
    http_header_seconds: float = Field(default=10.0, ge=0, le=600)
    http_max_header_bytes: int = Field(default=32_768, ge=0, le=1_048_576)
    http_min_body_bytes_per_second: int = Field(default=512, ge=0)
    http_body_seconds: float = Field(default=10.0, ge=0, le=600)
    http_max_held_body_bytes: int = Field(default=134_217_728, ge=0)
    http_write_seconds: float = Field(default=60.0, ge=0, le=3600)
    http_max_connections: int = Field(default=10_000, ge=0)
    http_max_connections_per_address: int = Field(default=2_000, ge=0)
    grpc_max_streams_per_connection: int = Field(default=2_000, ge=1)
    grpc_max_header_bytes: int = Field(default=32_768, ge=1024, le=1_048_576)
    grpc_max_connection_idle_seconds: float = Field(default=300.0, ge=0)
    grpc_max_connection_age_seconds: float = Field(default=3600.0, ge=0)
    grpc_max_connection_grace_seconds: float = Field(default=300.0, gt=0)
    grpc_min_ping_seconds: float = Field(default=10.0, gt=0)
    redis_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("redis_url", "REDIS_URL")
    )
    redis_prefix: str = Field(default="agentmesh", min_length=1, max_length=100)

    # What callers may have; 0 is no limit.
    requests_per_second: int = Field(default=1000, ge=0)
    requests_per_second_per_principal: int = Field(default=500, ge=0)
    max_open_streams: int = Field(default=10_000, ge=0)
    max_open_streams_per_principal: int = Field(default=5_000, ge=0)
    max_uploads_per_principal: int = Field(default=50, ge=0)
    upload_seconds: float = Field(default=30.0, ge=0, le=3600)
    upload_min_bytes_per_second: int = Field(default=512, ge=0)
    slow_reader_seconds: float = Field(default=60.0, ge=0, le=3600)
    limits_ceiling: int = Field(default=10, ge=1, le=1000)
    refused_credentials_per_minute: int = Field(default=60, ge=0)
    anonymous_requests_per_second: int = Field(default=50, ge=0)

    # What the replica can do; 0 is no limit.
    max_calls_under_way: int = Field(default=1000, ge=0)
    max_loop_lag_seconds: float = Field(default=1.0, ge=0)
    max_memory_bytes: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _debug_means_detailed_logs(cls, values: dict[str, Any]) -> dict[str, Any]:
        debug = str(values.get("app_debug", values.get("APP_DEBUG", ""))).lower()
        return values | {"log_level": "DEBUG"} if debug in ("true", "1", "yes", "on") else values

    @model_validator(mode="after")
    def _http_tls_has_a_certificate(self) -> Self:
        if self.http_tls and self.tls_cert_file is None:
            raise ValueError("AGENTMESH_HTTP_TLS needs AGENTMESH_TLS_CERT_FILE and its key")
        return self

    @model_validator(mode="after")
    def _callers_can_be_told_apart(self) -> Self:
        check_issuers(self.oidc)
        trusted_peers(self.trusted_peers)
        trusted_peers(self.trusted_trace_peers, "AGENTMESH_TRUSTED_TRACE_PEERS")
        if bool(self.trusted_peers) != bool(self.trusted_headers):
            raise ValueError(
                "AGENTMESH_TRUSTED_PEERS and AGENTMESH_TRUSTED_HEADERS belong together"
            )
        if "certificate" in self.trusted_headers and not self.spiffe_ids:
            raise ValueError(
                "certificates in headers need AGENTMESH_SPIFFE_IDS, to say whose they are"
            )
        asks = self.tls_require_client_cert or self.http_client_cert != "ignored"
        if self.spiffe_ids and not asks and "certificate" not in self.trusted_headers:
            raise ValueError(
                "AGENTMESH_SPIFFE_IDS needs AGENTMESH_TLS_REQUIRE_CLIENT_CERT,"
                " AGENTMESH_HTTP_CLIENT_CERT or AGENTMESH_TRUSTED_HEADERS: nobody is asked for one"
            )
        if self.http_client_cert != "ignored" and not (self.http_tls and self.tls_ca_file):
            raise ValueError(
                "AGENTMESH_HTTP_CLIENT_CERT needs AGENTMESH_HTTP_TLS and AGENTMESH_TLS_CA_FILE"
            )
        return self

    @property
    def looks_at_peers(self) -> bool:
        """Whether it matters who is at the other end of a connection."""
        return bool(self.spiffe_ids or self.trusted_peers or self.trusted_trace_peers)

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, url: SecretStr | None) -> SecretStr | None:
        try:
            if url is not None:
                check_url(url.get_secret_value())
        except ValueError:
            # The reason is not repeated: it may quote the URL, and that has a password.
            raise ValueError(
                "must be redis://user:password@host:port/number, rediss://… for TLS, or "
                "unix://path; characters such as / in a password are written as %2F"
            ) from None
        return url

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        TrustedProxies(networks)
        return networks

    @field_validator("cors_allow_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f'"{origin}" is no origin such as https://console.example, nor "*"'
                )
        return origins

    @property
    def recheck_seconds(self) -> float:
        """How often the credentials of open streams are checked again."""
        return self.key_cache_seconds or _RECHECK_SECONDS_UNCACHED

    @property
    def loopback_only(self) -> bool:
        """Whether nobody but this machine can connect to either edge."""
        return is_loopback(self.grpc_host) and is_loopback(self.app_host)
