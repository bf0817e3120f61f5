"""Tool calls of runs: each is one recorded step, carried out at most once at a time."""

from .effects import EffectRules, Effects
from .recorded import ToolCalls
from .running import RunningCall
from .steps import (
    Audience,
    Authority,
    CallEnd,
    Claim,
    ClaimState,
    Ledger,
    StaleFenceError,
    ToolCall,
)

__all__ = [
    "Audience",
    "Authority",
    "CallEnd",
    "Claim",
    "ClaimState",
    "EffectRules",
    "Effects",
    "Ledger",
    "RunningCall",
    "StaleFenceError",
    "ToolCall",
    "ToolCalls",
]
