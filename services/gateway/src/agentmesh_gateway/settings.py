"""Everything the gateway can be told, from the environment or a YAML file."""

from __future__ import annotations

from typing import Self

from meshkit.settings import Port, ServiceSettings, is_loopback
from pydantic import AliasChoices, Field, model_validator

_RECHECK_SECONDS_UNCACHED = 1.0


class GatewaySettings(ServiceSettings):
    """Settings of the gateway; the README has a table of them."""

    grpc_port: Port = 50051
    app_host: str = Field(
        default="127.0.0.1", validation_alias=AliasChoices("app_host", "APP_HOST")
    )
    app_port: Port = Field(default=8000, validation_alias=AliasChoices("app_port", "APP_PORT"))
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
    access_log: bool = True
    access_log_reads: float = Field(default=0.1, ge=0, le=1)
    audit_reads: bool = False
    audit_queue: int = Field(default=10_000, ge=100, le=1_000_000)
    cors_allow_origins: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _http_tls_has_a_certificate(self) -> Self:
        if self.http_tls and self.tls_cert_file is None:
            raise ValueError("AGENTMESH_HTTP_TLS needs AGENTMESH_TLS_CERT_FILE and its key")
        return self

    @property
    def recheck_seconds(self) -> float:
        """How often the credentials of open streams are checked again."""
        return self.key_cache_seconds or _RECHECK_SECONDS_UNCACHED

    @property
    def loopback_only(self) -> bool:
        """Whether nobody but this machine can connect to either edge."""
        return is_loopback(self.grpc_host) and is_loopback(self.app_host)
