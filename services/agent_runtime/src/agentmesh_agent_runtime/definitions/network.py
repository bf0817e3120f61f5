"""What the calls of a tool may reach over the network, as definitions say it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict


class NetworkMode(StrEnum):
    """How much of the network."""

    NONE = "none"
    ALLOW_LIST = "allow_list"
    OPEN = "open"


class NetworkSpec(BaseModel):
    """A policy; what it says of destinations, names and bounds is kept as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: NetworkMode = NetworkMode.NONE
    allow: tuple[Mapping[str, Any], ...] = ()
    dns: Mapping[str, Any] | None = None
    limits: Mapping[str, Any] | None = None
