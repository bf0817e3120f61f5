"""Every setting of this service."""

from __future__ import annotations

import os
from pathlib import Path

from meshkit.settings import Port, ServiceSettings
from pydantic import AliasChoices, Field, SecretStr


def _bare(name: str) -> AliasChoices:
    """A variable without the AGENTMESH_ prefix."""
    return AliasChoices(name, name.upper())


class RuntimeSettings(ServiceSettings):
    """See README.md for what each one does."""

    grpc_port: Port = 50053
    max_turns: int = Field(default=256, gt=0, le=10_000)
    agents_file: Path | None = None
    component_packages: str = ""
    models_file: Path | None = None
    model_keys_dir: Path | None = None
    script_file: Path | None = None
    script_word_delay_ms: float = Field(default=0.0, ge=0, le=10_000)
    stall_seconds: float = Field(default=300.0, gt=0)
    blocked_loop_seconds: float = Field(default=5.0, ge=0.1, le=100)
    max_reply_chars: int = Field(default=2_000_000, gt=0)

    openai_api_key: SecretStr | None = Field(default=None, validation_alias=_bare("openai_api_key"))
    openai_base_url: str = Field(default="", validation_alias=_bare("openai_base_url"))
    default_model: str = Field(
        default="gpt-4", min_length=1, validation_alias=_bare("default_model")
    )
    temperature: float = Field(default=0.7, ge=0, le=2, validation_alias=_bare("temperature"))
    max_tokens: int = Field(default=4000, gt=0, validation_alias=_bare("max_tokens"))
    autogen_timeout: float = Field(default=300.0, gt=0, validation_alias=_bare("autogen_timeout"))

    def model_key(self, reference: str) -> SecretStr | None:
        """What a profile's `key_ref` names, or None if there is no such key.

        That is a file below `model_keys_dir`, else a variable of the environment.
        """
        return _key_in(self.model_keys_dir, reference) or _filled(os.environ.get(reference))


def _key_in(folder: Path | None, reference: str) -> SecretStr | None:
    if folder is None:
        return None
    try:
        file = (folder / reference).resolve()
        if not file.is_relative_to(folder.resolve()) or not file.is_file():
            return None
        return _filled(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _filled(value: str | None) -> SecretStr | None:
    text = (value or "").strip()
    return SecretStr(text) if text else None
