"""What monitoring wants to know of conversations, counted as it is committed."""

from __future__ import annotations

from collections.abc import Sequence

from meshkit.metrics import Metrics

from agentmesh_conversation_store.domain.model import SECOND, Run
from agentmesh_conversation_store.storage.interface import Committed

_PEOPLE = frozenset({"", "user"})


class ConversationFigures:
    """Listens to a storage's commits. Each is counted once, by the replica that made it."""

    def __init__(self, metrics: Metrics) -> None:
        self._started = metrics.counter(
            "agentmesh_conversations_started", "Conversations that were started or imported."
        )
        self._messages = metrics.counter(
            "agentmesh_messages", "Messages, by whether people or agents sent them.", "sender"
        )
        self._ended = metrics.counter(
            "agentmesh_runs_ended", "Runs that ended, by their status.", "status"
        )
        self._run_seconds = metrics.seconds(
            "agentmesh_run_seconds", "From the start of a run to its end.", "status"
        )
        self._attempts = metrics.counter(
            "agentmesh_attempts_failed", "Attempts at turns that failed and were repeated."
        )

    def __call__(self, group: Sequence[Committed]) -> None:
        for committed in group:
            for event in committed.events:
                match event.kind:
                    case "conversation_started":
                        self._started.add()
                    case "message":
                        self._messages.add("people" if event.agent in _PEOPLE else "agents")
                    case "attempt_failed":
                        self._attempts.add()
                    case "run_ended":
                        self._count_end(committed.runs, event.run_id)

    def _count_end(self, runs: Sequence[Run], run_id: str) -> None:
        for run in runs:
            if run.run_id == run_id and run.ended_at is not None:
                status = run.status.name.lower()
                self._ended.add(status)
                self._run_seconds.add(status, value=(run.ended_at - run.started_at) / SECOND)
                return
