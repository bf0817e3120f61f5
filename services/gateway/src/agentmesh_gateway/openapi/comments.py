"""The comments of the contracts, which generated code does not have."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files


@cache
def _comments() -> dict[str, str]:
    text = (files("agentmesh.gateway.v1") / "comments.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    return found


def comment_of(full_name: str) -> str:
    """What the contract says of a service, method, message, field, enum or value; "" if nothing.

    An enum's value is named after its enum: "agentmesh.common.v1.Role.ROLE_VIEWER".
    """
    return _comments().get(full_name, "")
