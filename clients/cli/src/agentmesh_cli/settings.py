"""What the command reads from its environment, and where it looks for things by default."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ADDRESS = "127.0.0.1:50051"
ADDRESS_VARIABLE = "AGENTMESH_ADDRESS"
API_KEY_VARIABLE = "AGENTMESH_API_KEY"
DATA_DIR_VARIABLE = "AGENTMESH_DATA_DIR"


SCRIPTED = "scripted"
SCRIPTED_NOTE = f"{SCRIPTED} (prepared replies, no model is called; set OPENAI_API_KEY to use one)"


@dataclass(frozen=True)
class ModelSettings:
    """Which model the services of an own mesh will use; the same variables reach them."""

    api_key: str
    base_url: str
    model: str

    def describe(self) -> str:
        """One line that nobody can misread: scripted, or which real model at which server."""
        if not self.api_key:
            return SCRIPTED_NOTE
        where = self.base_url or "api.openai.com"
        return f"{self.model or 'the default of the agents'} at {where}"


def model_settings() -> ModelSettings:
    """The model settings of this environment."""
    return ModelSettings(
        api_key=os.environ.get("OPENAI_API_KEY", ""),
        base_url=os.environ.get("OPENAI_BASE_URL", ""),
        model=os.environ.get("DEFAULT_MODEL", ""),
    )


def service_environment() -> Mapping[str, str]:
    """What the services of an own mesh inherit: everything."""
    return dict(os.environ)


def default_data_dir() -> Path:
    """The data directory unless one is named: agentmesh in the user's folder for data (XDG)."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "agentmesh"
