"""A team that is led by one of its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentmesh_agent_runtime.extension import (
    ComponentConfig,
    ComponentError,
    MeshGroupChat,
    TeamSetup,
    takes,
)
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage


class ChairedTeamConfig(ComponentConfig):
    """`chair` is the member that leads, `closing` the word that ends the meeting."""

    chair: str
    closing: str = "ADJOURNED"


@takes(ChairedTeamConfig)
class ChairedTeam(MeshGroupChat):
    """The chair opens, then has the word after each of the others, until it closes the meeting."""

    def __init__(self, setup: TeamSetup) -> None:
        self._config: ChairedTeamConfig = setup.config
        names = [member.name for member in setup.members]
        if self._config.chair not in names:
            raise ComponentError(f"chair: {self._config.chair!r} is no member of the team")
        if len(names) < 2:
            raise ComponentError("a chair alone leads nobody; add a participant")
        self._others = [name for name in names if name != self._config.chair]
        self._heard = 0
        self._chairs_turn = True
        super().__init__(setup)

    async def next_speakers(
        self, thread: Sequence[BaseAgentEvent | BaseChatMessage]
    ) -> Sequence[str]:
        """The chair and the others by turns."""
        said = [message for message in thread if isinstance(message, BaseChatMessage)]
        chair = self._config.chair
        closed = any(m.source == chair and self._config.closing in m.to_text() for m in said)
        if closed:
            return ()
        self._chairs_turn = not self._chairs_turn
        if not self._chairs_turn:
            return (chair,)
        self._heard += 1
        return (self._others[(self._heard - 1) % len(self._others)],)

    def save_choices(self) -> Mapping[str, Any]:
        """Who had the word."""
        return {"heard": self._heard, "chairs_turn": self._chairs_turn}

    def load_choices(self, state: Mapping[str, Any]) -> None:
        """As it was saved; an empty state begins anew."""
        self._heard = state.get("heard", 0)
        self._chairs_turn = state.get("chairs_turn", True)
