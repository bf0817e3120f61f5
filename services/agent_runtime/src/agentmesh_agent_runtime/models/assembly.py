"""Puts a reply together from its pieces, with the same promises whatever server it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeGuard

from agentmesh_agent_runtime.models.prompt_length import CHARACTERS_PER_TOKEN
from agentmesh_agent_runtime.models.replies import Call, ModelReply, Piece
from agentmesh_agent_runtime.models.whole_text import TextStream, valid
from agentmesh_agent_runtime.turns.failures import ModelFailed, ModelRefused
from agentmesh_agent_runtime.turns.ports import Consumption, DeltaKind

MOST_TOKENS = 1 << 30
"""Of one request or reply. Servers that count more count wrongly."""


def counted(
    asked: object, answered: object, *, cached: object = 0, reasoning: object = 0
) -> Consumption | None:
    """What a server counted of a request and its reply; None if that can not be meant."""
    if not _is_count(asked) or not _is_count(answered):
        return None
    return Consumption(
        input_tokens=asked,
        output_tokens=answered,
        cached_input_tokens=cached if _is_count(cached) else 0,
        reasoning_tokens=reasoning if _is_count(reasoning) else 0,
        model_calls=1,
    )


def _is_count(value: object) -> TypeGuard[int]:
    """True for a positive number; there is no request and no reply without a token."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_TOKENS


@dataclass
class _GrowingCall:
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    stream: TextStream = field(default_factory=TextStream)


class ReplyAssembly:
    """A reply in the making, of at most `max_chars` characters.

    Each method that adds something returns it as pieces to hand on, and raises ModelRefused once
    the reply is too long. A reader sets `finish_reason` when
    the reply is whole: "stop", "length", "tool_calls" or "content_filter".
    """

    def __init__(self, model: str, max_chars: int) -> None:
        self.model = model
        self.finish_reason = ""
        self._max_chars = max_chars
        self._chars = 0
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._streams = {kind: TextStream() for kind in (DeltaKind.TEXT, DeltaKind.REASONING)}
        self._calls: dict[int, _GrowingCall] = {}

    @property
    def calls(self) -> int:
        """How many tool calls have begun."""
        return len(self._calls)

    @property
    def has_text(self) -> bool:
        """True if some of it was said."""
        return bool(self._text)

    def call_itself(self, model: object) -> None:
        """Notes what the server calls the model, if it does."""
        if isinstance(model, str) and model:
            self.model = valid(model)

    def say(self, text: object) -> list[Piece]:
        """Adds to the text; nothing if `text` is none."""
        return self._add(DeltaKind.TEXT, self._text, text)

    def think(self, text: object) -> list[Piece]:
        """Adds to the reasoning; nothing if `text` is none."""
        return self._add(DeltaKind.REASONING, self._reasoning, text)

    def call(
        self, index: int, *, call_id: str = "", name: str = "", arguments: str = ""
    ) -> list[Piece]:
        """Adds to the tool call of that index."""
        call = self._calls.setdefault(index, _GrowingCall())
        call.call_id += call_id
        call.name += name
        # Names and ids are no part of the reply that people see, and no way around its bound.
        self._count(len(call_id) + len(name))
        self._count(len(arguments))
        arguments = call.stream.whole(arguments)
        call.arguments += arguments
        return [Piece(DeltaKind.TOOL_ARGUMENTS, arguments)] if arguments else []

    def finish(self, usage: Consumption | None, *, prompt_chars: int) -> ModelReply:
        """The whole reply; without `usage` from the server that is estimated.

        Raises ModelFailed if the stream broke off or said nothing, ModelRefused if a filter
        withheld the reply.
        """
        text = "".join(self._text) + self._streams[DeltaKind.TEXT].rest()
        if not self.finish_reason:
            where = "in the middle of its reply" if self._chars else "before it said anything"
            raise ModelFailed(f"the model server broke off {where}")
        if self.finish_reason == "content_filter":
            raise ModelRefused("the model server's content filter withheld the reply")
        if not self._calls and not text.strip():
            raise ModelFailed("the model answered with an empty reply")
        return ModelReply(
            text=text,
            calls=tuple(
                Call(
                    valid(call.call_id),
                    valid(call.name),
                    call.arguments + call.stream.rest() or "{}",
                )
                for _, call in sorted(self._calls.items())
            ),
            reasoning="".join(self._reasoning) + self._streams[DeltaKind.REASONING].rest(),
            finish_reason=self.finish_reason,
            usage=usage or self._estimate(prompt_chars),
            model=self.model,
        )

    def _add(self, kind: DeltaKind, parts: list[str], text: object) -> list[Piece]:
        if not isinstance(text, str) or not text:
            return []
        self._count(len(text))
        whole = self._streams[kind].whole(text)
        parts.append(whole)
        return [Piece(kind, whole)] if whole else []

    def _count(self, characters: int) -> None:
        self._chars += characters
        if self._chars > self._max_chars:
            raise ModelRefused(
                f"the model's reply is longer than {self._max_chars} characters; set max_tokens"
            )

    def _estimate(self, prompt_chars: int) -> Consumption:
        return Consumption(
            input_tokens=max(1, prompt_chars // CHARACTERS_PER_TOKEN),
            output_tokens=max(1, self._chars // CHARACTERS_PER_TOKEN),
            model_calls=1,
            estimated=True,
        )
