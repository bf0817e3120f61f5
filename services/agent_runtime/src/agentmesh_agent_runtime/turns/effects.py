"""Effects of components as recorded steps: what is done once, and what an agent says by itself."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from autogen_agentchat.messages import BaseChatMessage, HandoffMessage, TextMessage
from autogen_core import CancellationToken
from autogen_core.tools import ToolResult

from agentmesh_agent_runtime.components import ComponentError
from agentmesh_agent_runtime.extension.setups import TurnInfo
from agentmesh_agent_runtime.models.replies import Call
from agentmesh_agent_runtime.models.whole_text import valid
from agentmesh_agent_runtime.turns.failures import ReplayDiverged
from agentmesh_agent_runtime.turns.ports import (
    HandedOverTo,
    MessagePart,
    PartKind,
    SaidMessage,
    Speaker,
    StepResult,
)
from agentmesh_agent_runtime.turns.reporting import reported
from agentmesh_agent_runtime.turns.scope import Seat, TurnScope
from agentmesh_agent_runtime.turns.tool_step import RecordedTools

ENCODING: Final = "application/json"
LARGEST: Final = 1 << 20
"""Bytes of an answer, of a call's arguments, and of what is done once."""
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class RecordedOnce:
    """See `Once` of the extension; of the agent or team at `path`."""

    def __init__(self, path: str, seat: Seat) -> None:
        self._path = path
        self._seat = seat

    async def __call__(self, key: str, make: Callable[[], Any]) -> Any:
        if not _KEY.fullmatch(key):
            raise ComponentError(f"{key!r} names no effect; use letters, digits and underscores")
        scope = self._seat.scope
        step_key = scope.next_key(f"{self._path}~once.{key}")
        digest = hashlib.sha256(b"once/1\0" + key.encode()).digest()
        recorded = await scope.begin_other(step_key, digest)
        if recorded is None:
            # A turn that knew of a failure would have to remember it; so it is attempted again.
            what = f"effect {key!r} of {self._path}"
            made = await scope.guarded(reported(what, _made(make)))
            recorded = _as_json(f"what {key!r} made", made)
            await scope.record(StepResult(step_key, digest, recorded, ENCODING, ()))
        return _read(recorded)


class CurrentTurnOf:
    """See `CurrentTurn` of the extension."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def __call__(self) -> TurnInfo:
        scope = self._seat.scope
        turn = scope.grant.id
        return TurnInfo(
            turn.conversation_id,
            turn.run_id,
            turn.turn,
            scope.grant.rounds,
            scope.stage.name if scope.stage else "",
        )


class CallableTools(RecordedTools):
    """The tools of an agent that may call them without having been asked to by a model."""

    async def call_tool(
        self,
        name: str,
        arguments: Any = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> ToolResult:
        """Carries out the call of that id, or one that is made here and told first."""
        if call_id is None or not self._seat.scope.has_call(call_id):
            call_id = await self._make_call(name, arguments or {})
        return await super().call_tool(name, arguments, cancellation_token, call_id)

    async def _make_call(self, name: str, arguments: Any) -> str:
        written = _as_json(f"what it calls {name!r} with", arguments).decode()
        scope = self._seat.scope
        step_key = scope.next_key(f"{self._path}~call")
        call = Call(scope.message_id(step_key).replace("msg_", "call_"), name, written)
        digest = hashlib.sha256(f"call/1\0{name}\0{call.arguments_json}".encode()).digest()
        part = MessagePart(PartKind.TOOL_CALL, call.arguments_json, name, call.call_id)
        message = SaidMessage(scope.message_id(step_key), Speaker.AGENT, self._path, (part,))
        if await scope.begin_other(step_key, digest) is not None:
            scope.remember([message])
        else:
            await scope.record(StepResult(step_key, digest, b"{}", ENCODING, (message,)))
        scope.expect([call])
        return call.call_id


async def told(
    scope: TurnScope, path: str, heard: Sequence[BaseChatMessage], answer: BaseChatMessage
) -> BaseChatMessage:
    """The answer of the agent at `path`, as the log has it.

    What a recorded model said is there already; anything else is a step of its own, and what an
    earlier attempt recorded of it stands.
    """
    text = valid(answer.to_text())
    if len(text.encode()) > LARGEST:
        raise ComponentError(f"its answer is longer than {LARGEST} bytes")
    target = answer.target if isinstance(answer, HandoffMessage) else ""
    said = [m.text for m in scope.said if m.agent == path and m.speaker is Speaker.AGENT and m.text]
    if said and said[-1] == text and not target:
        return answer
    step_key = scope.next_key(f"{path}~answer")
    digest = hashlib.sha256(b"answer/1\0")
    for each in heard:
        digest.update(f"{each.source}\0{each.to_text()}\0".encode())
    message_id = scope.message_id(step_key)
    recorded = await scope.begin_other(step_key, digest.digest())
    if recorded is not None:
        kept = _read(recorded)
        text, target = kept["text"], kept["target"]
    parts = (MessagePart(PartKind.TEXT, text),)
    message = SaidMessage(message_id, Speaker.AGENT, path, parts)
    if recorded is not None:
        scope.remember([message])
    else:
        await scope.record(
            StepResult(
                step_key,
                digest.digest(),
                json.dumps({"text": text, "target": target}).encode(),
                ENCODING,
                (message,),
                handoff=HandedOverTo(path, target, text) if target else None,
            )
        )
    if target:
        return HandoffMessage(content=text, source=answer.source, target=target)
    return TextMessage(content=text, source=answer.source, models_usage=answer.models_usage)


async def _made(make: Callable[[], Any]) -> Any:
    made = make()
    return await made if inspect.isawaitable(made) else made


def _as_json(what: str, value: Any) -> bytes:
    try:
        written = json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ComponentError(f"{what} is no JSON, so it cannot be recorded") from error
    if len(written) > LARGEST:
        raise ComponentError(f"{what} is longer than {LARGEST} bytes, so it cannot be recorded")
    return written


def _read(recorded: bytes) -> Any:
    try:
        return json.loads(recorded)
    except ValueError as error:
        raise ReplayDiverged(f"the record of an effect cannot be read: {error}") from error
