"""Every setting of this service."""

from __future__ import annotations

from pathlib import Path

from meshkit.settings import Port, ServiceSettings
from pydantic import AliasChoices, Field, SecretStr


def _bare(name: str) -> AliasChoices:
    """A variable without the AGENTMESH_ prefix."""
    return AliasChoices(name, name.upper())


class RuntimeSettings(ServiceSettings):
    """See README.md for what each one does."""

    grpc_port: Port = 50053
    max_turns: int = Field(default=64, gt=0, le=10_000)
    agents_file: Path | None = None
    component_packages: str = ""
    script_file: Path | None = None
    script_word_delay_ms: float = Field(default=0.0, ge=0, le=10_000)
    stall_seconds: float = Field(default=300.0, gt=0)
    max_reply_chars: int = Field(default=2_000_000, gt=0)

    openai_api_key: SecretStr | None = Field(default=None, validation_alias=_bare("openai_api_key"))
    openai_base_url: str = Field(default="", validation_alias=_bare("openai_base_url"))
    default_model: str = Field(
        default="gpt-4", min_length=1, validation_alias=_bare("default_model")
    )
    temperature: float = Field(default=0.7, ge=0, le=2, validation_alias=_bare("temperature"))
    max_tokens: int = Field(default=4000, gt=0, validation_alias=_bare("max_tokens"))
    autogen_timeout: float = Field(default=300.0, gt=0, validation_alias=_bare("autogen_timeout"))
