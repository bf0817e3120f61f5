"""Runs that a suspended turn starts, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from agentmesh.common.v1 import options_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2
from meshkit.identity import Principal, principal_scope

from agentmesh_agent_runtime.adapters.calls import insist
from agentmesh_agent_runtime.adapters.definitions import team_to_proto
from agentmesh_agent_runtime.turns.runs import RunNeeded, rounds_within

if TYPE_CHECKING:
    # The generated stubs for asyncio exist for type checkers only.
    from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
        ConversationStoreServiceAsyncStub,
    )


MOST_BYTES = 1536 * 1024
"""Of the runs that one suspension starts; what is more is started with the next one."""


def child_runs(needed: Sequence[RunNeeded]) -> list[turns_pb2.ChildRun]:
    """Runs to start, as many as fit into a message, at least one if there is one."""
    runs: list[turns_pb2.ChildRun] = []
    left = MOST_BYTES
    for run in map(_child_run, needed):
        left -= run.ByteSize()
        if runs and left < 0:
            break
        runs.append(run)
    return runs


def _child_run(needed: RunNeeded) -> turns_pb2.ChildRun:
    """As the store starts it. The limits of the run above bind it too."""
    return turns_pb2.ChildRun(
        agent_path=needed.path,
        definition=team_to_proto(needed.team),
        task=needed.task,
        max_rounds=rounds_within(needed.team),
    )


class OmittedAnswers:
    """Makes the answers of a turn's runs complete where they were too long for a grant."""

    def __init__(self, stub: ConversationStoreServiceAsyncStub) -> None:
        self._stub = stub

    async def complete(self, grant: turns_pb2.TurnGrant) -> None:
        """Puts the answers where they were left out. Raises what `insist` does."""
        reader = Principal(
            "agent_runtime", grant.tenant, options_pb2.ROLE_OPERATOR, "agent_runtime"
        )
        for child in grant.children:
            if not child.summary_omitted:
                continue
            with principal_scope(reader):
                read = partial(self._read, grant.run.conversation_id, child.run_id)
                child.summary = await insist(read)
            child.summary_omitted = False

    async def _read(self, conversation_id: str, run_id: str) -> str:
        wanted = store_pb2.EventFilter(kinds=["run_ended"], run_ids=[run_id])
        page = await self._stub.ListEvents(
            store_pb2.ListEventsRequest(conversation_id=conversation_id, filter=wanted, page_size=1)
        )
        return page.events[0].run_ended.summary if page.events else ""
