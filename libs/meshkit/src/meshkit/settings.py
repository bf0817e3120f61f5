"""Settings from the environment and a YAML file; the only place where either is read."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)
from yaml import YAMLError

PREFIX = "AGENTMESH_"
CONFIG_FILE_VARIABLE = "AGENTMESH_CONFIG_FILE"
MIB = 1024 * 1024
MINIMUM_SECRET_CHARACTERS = 16

Port = Annotated[int, Field(ge=0, le=65535)]


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "agentmesh"


class ServiceSettings(BaseSettings):
    """What every service can be told. Subclasses add their own and set the default port.

    A variable is the field's name in capitals after AGENTMESH_; the environment wins over the YAML
    file that AGENTMESH_CONFIG_FILE names, whose keys are the field names.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        validate_default=False,
    )

    grpc_host: str = "127.0.0.1"
    grpc_port: Port = 0
    data_dir: Path = Field(default_factory=_default_data_dir)
    internal_secret: SecretStr | None = None
    internal_secret_accepted: SecretStr | None = None
    internal_secret_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    tls_client_ca_file: Path | None = None
    tls_require_client_cert: bool = False
    drain_seconds: float = Field(default=10.0, ge=0, le=3600)
    max_message_bytes: int = Field(default=4 * MIB, ge=1024, le=512 * MIB)
    max_connections: int = Field(default=10_000, ge=0, le=1_000_000)
    handshake_seconds: float = Field(default=10.0, ge=0.1, le=600)
    max_watches: int = Field(default=1000, ge=0)
    max_watches_per_address: int = Field(default=100, ge=0)
    ready_file: Path | None = None
    log_format: Literal["json", "console"] = "console"
    log_level: str = Field(
        default="INFO", validation_alias=AliasChoices("AUTOGEN_LOG_LEVEL", "log_level", "LOG_LEVEL")
    )
    metrics_enabled: bool = Field(
        default=True, validation_alias=AliasChoices("metrics_enabled", "METRICS_ENABLED")
    )
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    )
    store_address: str = "127.0.0.1:50052"
    runtime_address: str = "127.0.0.1:50053"
    tool_runner_address: str = "127.0.0.1:50054"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over the file."""
        config_file = os.environ.get(CONFIG_FILE_VARIABLE)
        if not config_file:
            return init_settings, env_settings
        if not Path(config_file).is_file():
            raise SettingsError(f"{CONFIG_FILE_VARIABLE}: there is no file {config_file}")
        yaml_settings = YamlConfigSettingsSource(settings_cls, yaml_file=config_file)
        return init_settings, env_settings, yaml_settings

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        level = value.upper()
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
            raise ValueError("must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
        return level

    @field_validator("internal_secret", "internal_secret_accepted")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MINIMUM_SECRET_CHARACTERS:
            raise ValueError(
                f"must have at least {MINIMUM_SECRET_CHARACTERS} characters; "
                "make one with `openssl rand -hex 32`"
            )
        return value

    @property
    def has_internal_secret(self) -> bool:
        """Whether the services of this mesh share a secret of their own."""
        return self.internal_secret is not None or self.internal_secret_file is not None

    @model_validator(mode="after")
    def _secrets_have_one_source(self) -> Self:
        if self.internal_secret_accepted is not None and self.internal_secret is None:
            raise ValueError(f"{PREFIX}INTERNAL_SECRET_ACCEPTED needs {PREFIX}INTERNAL_SECRET")
        if self.internal_secret_file is not None and self.internal_secret is not None:
            raise ValueError(
                f"set {PREFIX}INTERNAL_SECRET or {PREFIX}INTERNAL_SECRET_FILE, not both"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError(f"{PREFIX}TLS_CERT_FILE and {PREFIX}TLS_KEY_FILE belong together")
        if self.tls_require_client_cert and not (self.tls_cert_file and self.tls_ca_file):
            raise ValueError(
                f"{PREFIX}TLS_REQUIRE_CLIENT_CERT needs {PREFIX}TLS_CERT_FILE, "
                f"{PREFIX}TLS_KEY_FILE and {PREFIX}TLS_CA_FILE"
            )
        return self


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


def load_settings(cls: type[AnySettings]) -> AnySettings:
    """The settings of this process; what is wrong goes to stderr, line by line, with status 2."""
    try:
        return cls()
    except ValidationError as error:
        _refuse(_explain(cls, dict(problem)) for problem in error.errors())
    except SettingsError as error:
        _refuse([f"{error}" + (f" ({error.__cause__})" if error.__cause__ else "")])
    except (YAMLError, OSError, TypeError, ValueError) as error:
        where = os.environ.get(CONFIG_FILE_VARIABLE, "settings")
        _refuse([f"{where}: {' '.join(str(error).split())}"])


def _refuse(lines: Any) -> NoReturn:
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    raise SystemExit(2)


def _explain(cls: type[BaseSettings], problem: dict[str, Any]) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0])
    return f"{variable_of(cls, name)}: {message}"


def variable_of(cls: type[BaseSettings], name: str) -> str:
    """The environment variable of a field, for messages to people."""
    if name.isupper():
        return name
    field = cls.model_fields.get(name)
    for candidate, info in cls.model_fields.items():
        alias = info.validation_alias
        if isinstance(alias, str) and alias.lower() == name.lower():
            return alias.upper()
        if isinstance(alias, AliasChoices) and (candidate == name or name in alias.choices):
            return str(alias.choices[-1]).upper()
    if field is not None and isinstance(field.validation_alias, str):
        return field.validation_alias.upper()
    return f"{cls.model_config.get('env_prefix', '')}{name}".upper()


def is_loopback(host: str) -> bool:
    """True if only this machine can connect to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
