"""What single agents consume in a run, and may."""

from __future__ import annotations

from collections.abc import Mapping

from agentmesh_agent_runtime.definitions.specs import AgentBudgetSpec
from agentmesh_agent_runtime.turns.allowance import Allowance
from agentmesh_agent_runtime.turns.failures import BudgetExhausted
from agentmesh_agent_runtime.turns.ports import Consumption


class Spending:
    """Tokens and money of the recorded steps of a run, by the paths of agents that have a budget.

    It goes into the checkpoint. What attempts that failed consumed counts for the run alone.
    """

    def __init__(self, kept: Mapping[str, tuple[int, int]] | None = None) -> None:
        self._spent = {path: (spent[0], spent[1]) for path, spent in (kept or {}).items()}

    def kept(self) -> dict[str, list[int]]:
        """As the constructor takes it."""
        return {path: list(spent) for path, spent in self._spent.items()}

    def add(self, path: str, budget: AgentBudgetSpec, usage: Consumption) -> None:
        """Counts a step."""
        if budget == AgentBudgetSpec():
            return
        tokens, cost = self._spent.get(path, (0, 0))
        tokens += usage.input_tokens + usage.output_tokens
        self._spent[path] = tokens, cost + usage.cost_micros

    def allow(self, path: str, budget: AgentBudgetSpec, wanted: Allowance) -> Allowance:
        """What of it the agent may have. Raises BudgetExhausted if that is too little."""
        tokens, cost = self._spent.get(path, (0, 0))
        if budget.max_tokens is not None and _tokens(wanted) > budget.max_tokens - tokens:
            less = wanted.within(budget.max_tokens - tokens)
            wanted = _or_exhausted(path, less, tokens, budget.max_tokens, "tokens")
        if budget.max_cost_micros is not None:
            less = wanted.within_cost(budget.max_cost_micros - cost)
            wanted = _or_exhausted(path, less, cost, budget.max_cost_micros, "cost micros")
        return wanted


def _tokens(wanted: Allowance) -> int:
    return wanted.request_tokens + wanted.reply_tokens


def _or_exhausted(path: str, less: Allowance | None, used: int, most: int, what: str) -> Allowance:
    if less is None:
        raise BudgetExhausted(f"{path} used {used} of the {most} {what} that it may")
    return less
