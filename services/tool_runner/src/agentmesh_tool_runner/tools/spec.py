"""What is known of a tool before it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolSpec:
    """What is known of a tool before it is called.

    `parameters` is the JSON Schema of its arguments; `output_schema`, if it has one, that of the
    `detail` of its good replies. `version` changes whenever equal arguments may give another
    result. `cacheable` says that nothing but the arguments decides the result. `concurrency` is
    the most calls at once here, 0 for no bound. `timeout_seconds` is None for the service's own.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    safe_to_repeat: bool = False
    output_schema: Mapping[str, Any] | None = None
    version: str = ""
    origin: str = ""
    timeout_seconds: float | None = None
    retries: int = 0
    concurrency: int = 0
    cacheable: bool = False
    uses_workspace: bool = True
