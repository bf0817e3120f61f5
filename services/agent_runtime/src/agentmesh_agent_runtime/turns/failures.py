"""Why a turn could not be taken, and what becomes of the run because of it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from agentmesh_agent_runtime.turns.people import PersonNeeded
from agentmesh_agent_runtime.turns.runs import RunNeeded


class EndReason(StrEnum):
    """Why a run ended, or why an attempt at its turn failed."""

    TERMINATED = "terminated"
    MAX_ROUNDS = "max_rounds"
    DEADLINE = "deadline"
    BUDGET = "budget"
    MODEL_ERROR = "model_error"
    MODEL_CREDENTIALS = "model_credentials"
    INVALID_DEFINITION = "invalid_definition"
    REPLAY_DIVERGED = "replay_diverged"
    STALLED = "stalled"
    INTERNAL = "internal"


class TurnFailure(Exception):  # noqa: N818  a failure is no defect of the program
    """A turn cannot be taken.

    `retryable`: another attempt at the same turn may succeed, at the earliest after `retry_after`
    seconds; `counts`: this one is one of the few that a turn has. Otherwise the run ends with
    `reason`. The text is for people and never a traceback.
    """

    reason: EndReason = EndReason.INTERNAL
    retryable: bool = False
    counts: bool = True

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class ModelFailed(TurnFailure):
    """The model server failed in a way that may pass: overload, 5xx, a broken connection."""

    reason = EndReason.MODEL_ERROR
    retryable = True


class ModelBusy(ModelFailed):
    """A model profile's own pace allows no request for a while; that is nobody's failure."""

    counts = False


class ModelRefused(TurnFailure):
    """The model server refuses the request or answers with something unusable."""

    reason = EndReason.MODEL_ERROR


class ModelCredentialsRefused(TurnFailure):
    """The model server refuses the credentials."""

    reason = EndReason.MODEL_CREDENTIALS


class InvalidDefinition(TurnFailure):
    """The pinned definition cannot run."""

    reason = EndReason.INVALID_DEFINITION


class ReplayDiverged(TurnFailure):
    """A replayed step asks for something else than its record."""

    reason = EndReason.REPLAY_DIVERGED


class BudgetExhausted(TurnFailure):
    """The run may not consume so much more; `remaining_tokens` is what it still may, if known."""

    reason = EndReason.BUDGET

    def __init__(self, detail: str, *, remaining_tokens: int = 0) -> None:
        super().__init__(detail)
        self.remaining_tokens = remaining_tokens


class DayUsedUp(TurnFailure):
    """The tenant may not consume more today: the run waits for tomorrow, or for a larger budget."""

    reason = EndReason.BUDGET
    retryable = True
    counts = False


class RunFailed(TurnFailure):
    """A run that works for this one failed, and so does this one, for the same reason."""

    def __init__(self, detail: str, reason: EndReason) -> None:
        super().__init__(detail)
        self.reason = reason


class DeadlinePassed(TurnFailure):
    """The run's deadline passed."""

    reason = EndReason.DEADLINE


class TurnStalled(TurnFailure):
    """The turn made no progress for too long."""

    reason = EndReason.STALLED
    retryable = True


class ServiceUnreachable(TurnFailure):
    """The store or the tool_runner cannot be reached."""

    reason = EndReason.INTERNAL
    retryable = True


class TurnCrashed(TurnFailure):
    """A defect of the mesh or of AutoGen. Tried again, as often as the store allows."""

    reason = EndReason.INTERNAL
    retryable = True


class ComponentFailed(TurnFailure):
    """A component of an installed package failed. Tried again: what it failed for may pass."""

    reason = EndReason.INTERNAL
    retryable = True


class ToolRefused(Exception):  # noqa: N818  the model is told of it
    """The tool_runner will not carry out a call; the text says why, for the model."""


class LeaseLost(Exception):  # noqa: N818  an instruction to stop, no defect
    """The lease was taken away: stop at once and write nothing more."""


class HandedOver(Exception):  # noqa: N818  an instruction to stop, no defect
    """The runtime drains: stop at the next step and give the lease back."""


class Suspended(Exception):  # noqa: N818  an instruction to stop, no defect
    """All that is left of the turn waits for people or for runs: give it back until then.

    `needed` is what people have not been asked yet, `runs` what has not been started yet.
    """

    def __init__(
        self,
        needed: Sequence[PersonNeeded],
        runs: Sequence[RunNeeded] = (),
        *,
        awaits_runs: bool = False,
    ) -> None:
        super().__init__(f"the turn waits for {'runs' if awaits_runs else 'people'}")
        self.needed = tuple(needed)
        self.runs = tuple(runs)
        self.awaits_runs = awaits_runs


class TurnStopped(Exception):  # noqa: N818  an instruction to stop, no defect
    """What AutoGen sees instead of the reason why the turn ends, which its scope knows."""
