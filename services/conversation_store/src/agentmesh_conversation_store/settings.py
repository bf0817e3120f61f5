"""Everything that can be set; see the table in README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from meshkit.settings import ServiceSettings
from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from .blobs.location import check_url
from .domain.model import SECOND, Micros
from .fanout.redis_channels import check_url as check_redis_url
from .storage.sqlite.storage import DATABASE_FILE

GIB = 1024**3
_LEAST_SECRET_CHARACTERS = 32


class StoreSettings(ServiceSettings):
    """Settings of the conversation_store."""

    # A URL that is refused may hold a password.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    grpc_port: int = Field(default=50052, ge=0, le=65535)
    api_key_secret: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("api_key_secret", "API_KEY_SECRET")
    )
    postgres_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("postgres_url", "POSTGRES_URL")
    )
    redis_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("redis_url", "REDIS_URL")
    )
    redis_prefix: str = Field(default="agentmesh", min_length=1, max_length=100)
    lease_seconds: float = Field(default=5.0, gt=0, le=3600)
    lease_renew_seconds: float = Field(default=1.0, gt=0, le=1200)
    lease_hand_over_seconds: float = Field(default=0.5, gt=0, le=60)
    lease_poll_seconds: float = Field(default=0.25, gt=0, le=60)
    sweep_seconds: float = Field(default=0.1, gt=0, le=60)
    max_turn_failures: int = Field(default=5, ge=1, le=1000)
    max_lost_workers: int = Field(default=20, ge=1, le=1000)
    retry_delay_seconds: float = Field(default=1.0, ge=0, le=60)
    heartbeat_seconds: float = Field(default=10.0, gt=0, le=15)
    head_check_seconds: float = Field(default=1.0, gt=0, le=60)
    retention_seconds: float = Field(default=60.0, gt=0, le=86_400)
    audit_key: SecretStr | None = None
    audit_seal_seconds: float = Field(default=1.0, gt=0, le=60)
    audit_retention_days: int | None = Field(default=None, ge=1, le=36_500)
    removal_poll_seconds: float = Field(default=5.0, gt=0, le=3600)
    sqlite_readers: int = Field(default=2, ge=1, le=64)
    blob_url: str = ""
    aws_allow_http: bool = Field(
        default=False, validation_alias=AliasChoices("aws_allow_http", "AWS_ALLOW_HTTP")
    )
    max_blob_bytes: int = Field(default=5 * GIB, ge=1, le=5 * GIB)
    postgres_writers: int = Field(default=4, ge=1, le=64)
    postgres_readers: int = Field(default=8, ge=1, le=256)
    postgres_timeout_seconds: float = Field(default=30.0, gt=0, le=3600)
    migrate_at_start: bool = True

    @property
    def database_file(self) -> Path:
        """The SQLite file."""
        return self.data_dir / DATABASE_FILE

    @property
    def blob_folder(self) -> Path:
        """Where blobs lie if no URL is set."""
        return self.data_dir / "blobs"

    @property
    def lease(self) -> Micros:
        """How long a lease lasts without renewal."""
        return round(self.lease_seconds * SECOND)

    @field_validator("postgres_url")
    @classmethod
    def _is_a_postgres_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(
            ("postgresql://", "postgres://")
        ):
            raise ValueError("POSTGRES_URL must be postgresql://user:password@host:port/database")
        return url

    @field_validator("audit_key")
    @classmethod
    def _is_hard_to_guess(cls, value: SecretStr | None) -> SecretStr | None:
        secrets = value.get_secret_value().split(",") if value is not None else []
        if any(len(secret.strip()) < _LEAST_SECRET_CHARACTERS for secret in secrets):
            raise ValueError(
                f"each must have at least {_LEAST_SECRET_CHARACTERS} characters; "
                "make one with `openssl rand -hex 32`"
            )
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, url: SecretStr | None) -> SecretStr | None:
        # Said without the URL, and tried here, since it may hold a password.
        if url is not None:
            try:
                check_redis_url(url.get_secret_value())
            except ValueError:
                raise ValueError(
                    "REDIS_URL must be redis://user:password@host:port/number, rediss://… for TLS, "
                    "or unix://path"
                ) from None
        return url

    @model_validator(mode="after")
    def _replicas_share_their_pepper(self) -> Self:
        # A pepper of one replica's own would make its keys useless at the others.
        if self.postgres_url is not None and self.api_key_secret is None:
            raise ValueError("API_KEY_SECRET must be set with POSTGRES_URL: replicas share it")
        return self

    @field_validator("blob_url")
    @classmethod
    def _names_a_place(cls, value: str) -> str:
        if value:
            check_url(value)
        return value

    @model_validator(mode="after")
    def _renewal_fits(self) -> Self:
        if self.lease_renew_seconds * 2 > self.lease_seconds:
            raise ValueError(
                "AGENTMESH_LEASE_RENEW_SECONDS must be at most half of AGENTMESH_LEASE_SECONDS"
            )
        return self
