"""What is mended in AutoGen 0.7.5. Each mend has a test that fails without it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage
from autogen_agentchat.teams._group_chat._events import GroupChatStart
from autogen_agentchat.teams._group_chat._graph._digraph_group_chat import GraphFlowManager
from autogen_agentchat.teams._group_chat._magentic_one._magentic_one_orchestrator import (
    MagenticOneOrchestrator,
)
from autogen_core import CancellationToken, DefaultTopicId, FunctionCall, MessageContext, rpc
from autogen_core.models import FunctionExecutionResult
from autogen_core.tools import BaseTool, Workbench

from agentmesh_agent_runtime.turns.failures import ModelRefused
from agentmesh_agent_runtime.turns.model_step import RecordedModel
from agentmesh_agent_runtime.turns.scope import Seat
from agentmesh_agent_runtime.turns.telling import Telling
from agentmesh_agent_runtime.turns.tool_step import RecordedTools

# Spans of AutoGen's runtime carry whole messages in their attributes and slow a team down by a
# factor of four; each of its runtimes reads this when it is made.
NO_RUNTIME_TRACING = "AUTOGEN_DISABLE_RUNTIME_TRACING"
os.environ[NO_RUNTIME_TRACING] = "true"

# Its loggers write whole messages at INFO, and a traceback for every model error that is reported
# to the run anyway.
for _name in ("autogen_core", "autogen_agentchat"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

Executed = tuple[FunctionCall, FunctionExecutionResult]


class MendedAssistant(AssistantAgent):
    """An AssistantAgent all of whose tool calls reach its workbench.

    AutoGen answers malformed arguments and unknown tools by itself and hands over without a word,
    so that the log would show a call without a result; and it waits for ever if a call raises or
    is cancelled (microsoft/autogen #7956, #7100).
    """

    component_provider_override = "agentmesh_agent_runtime.mends.MendedAssistant"

    @staticmethod
    async def _execute_tool_call(
        tool_call: FunctionCall,
        workbench: Sequence[Workbench],
        handoff_tools: list[BaseTool[Any, Any]],
        agent_name: str,
        cancellation_token: CancellationToken,
        stream: asyncio.Queue[BaseAgentEvent | BaseChatMessage | None],
    ) -> Executed:
        recorded = next((wb for wb in workbench if isinstance(wb, RecordedTools)), None)
        if recorded is None:
            return await AssistantAgent._execute_tool_call(
                tool_call, workbench, handoff_tools, agent_name, cancellation_token, stream
            )
        handoff = next((tool for tool in handoff_tools if tool.name == tool_call.name), None)
        if handoff is not None:
            said = await handoff.run_json({}, cancellation_token, call_id=tool_call.id)
            text = handoff.return_value_as_string(said)
            output = await recorded.hand_over(tool_call.id, handoff.name, text)
        else:
            output = await recorded.carry_out(tool_call.name, tool_call.id)
        return tool_call, FunctionExecutionResult(
            content=output.text, call_id=tool_call.id, is_error=output.is_error, name=tool_call.name
        )


class MeshAgent(MendedAssistant):
    """An assistant whose answers wait for those of the members before it.

    Members that speak at the same time are heard in the order in which they happen to end, which is
    another one after each crash.
    """

    component_provider_override = "agentmesh_agent_runtime.mends.MeshAgent"
    seat: Seat

    async def on_messages_stream(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage | Response, None]:
        """Yields the answer when it is this member's turn to be heard."""
        async for item in super().on_messages_stream(messages, cancellation_token):
            if isinstance(item, Response):
                await self.seat.scope.wait_in_line(self.name)
            yield item
        self.seat.scope.line.leave(self.name)


class MeshGraphManager(GraphFlowManager):
    """A graph that goes on after `load_state` as it would have without, and begins in one order.

    Upstream forgets which groups set a waiting member going, so that in a cycle it is never set
    going again (microsoft/autogen #7043); and it begins with a set of names, whose order is another
    one in each process.
    """

    seat: Seat
    entry_points: tuple[str, ...] = ()

    def begin_in_order(self, entry_points: Sequence[str]) -> None:
        """Begins with these members, else with those that nothing leads to."""
        self.entry_points = tuple(entry_points)
        self._ready = self._beginning()

    def _beginning(self) -> deque[str]:
        first = set(self.entry_points) or self._graph.get_start_nodes()
        return deque(name for name in self._participant_names if name in first)

    def _reset_execution_state(self) -> None:
        super()._reset_execution_state()
        self._triggered_activation_groups = {}
        self._ready = self._beginning()

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Knows again which groups are complete, from what they still wait for."""
        await super().load_state(state)
        self._triggered_activation_groups = {
            name: {
                group
                for group, condition in self._activation.get(name, {}).items()
                if self._is_complete(name, group, condition)
            }
            for name in self._ready
        }

    def _is_complete(self, name: str, group: str, condition: str) -> bool:
        if condition == "any":
            return bool(self._enqueued_any.get(name, {}).get(group))
        return name in self._remaining and self._remaining[name].get(group) == 0

    async def select_speaker(self, thread: Sequence[BaseAgentEvent | BaseChatMessage]) -> list[str]:
        """All that are ready; they are heard in that order, whoever ends first."""
        speakers = await super().select_speaker(thread)
        self.seat.scope.line.form(speakers)
        return speakers


_BEGIN: Callable[..., Awaitable[None]] = MagenticOneOrchestrator.handle_start


class MeshOrchestrator(MagenticOneOrchestrator):
    """An orchestrator that can be stopped after any answer and go on in another process.

    Upstream begins its task anew at each start, and fails without a new message (microsoft/autogen
    #5054, #7036).
    """

    seat: Seat

    @rpc
    async def handle_start(self, message: GroupChatStart, ctx: MessageContext) -> None:  # type: ignore[override]  # upstream's is no plain method
        """Begins the task in the first round of a run, and goes on with it in all others."""
        if self.seat.scope.grant.rounds == 0 or not self._task:
            await _BEGIN(self, message, ctx)
            return
        if message.messages:
            await self.publish_message(
                GroupChatStart(messages=message.messages),
                topic_id=DefaultTopicId(type=self._group_topic_type),
                cancellation_token=ctx.cancellation_token,
            )
            await self.update_message_thread(message.messages)
        await self._orchestrate_step(ctx.cancellation_token)

    async def _orchestrate_step(self, cancellation_token: CancellationToken) -> None:
        """A ledger that cannot be read is the model's failure, not a defect."""
        try:
            await super()._orchestrate_step(cancellation_token)
        except (ValueError, KeyError, TypeError) as error:
            why = f"the orchestrator's model keeps no ledger that can be read: {error}"
            self.seat.scope.stop(ModelRefused(why))
            raise

    async def _prepare_final_answer(
        self, reason: str, cancellation_token: CancellationToken
    ) -> None:
        """What it says in the end is said aloud; all before was thought."""
        client = self._model_client
        if isinstance(client, RecordedModel):
            client.telling = Telling.ALOUD
        try:
            await super()._prepare_final_answer(reason, cancellation_token)
        finally:
            if isinstance(client, RecordedModel):
                client.telling = Telling.AS_THOUGHT
