"""Puts a reply together from its pieces, with the same promises whatever server it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from agentmesh_agent_runtime.models.prompt_length import CHARACTERS_PER_TOKEN
from agentmesh_agent_runtime.models.replies import Call, ModelReply, Piece
from agentmesh_agent_runtime.turns.failures import ModelFailed, ModelRefused
from agentmesh_agent_runtime.turns.ports import Consumption, DeltaKind


@dataclass
class _GrowingCall:
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class ReplyAssembly:
    """A reply in the making, of at most `max_chars` characters.

    Each method that adds something returns it as pieces to hand on, and raises ModelRefused once
    the reply is too long. A reader sets `model` to what the server says, and `finish_reason` when
    the reply is whole: "stop", "length", "tool_calls" or "content_filter".
    """

    def __init__(self, model: str, max_chars: int) -> None:
        self.model = model
        self.finish_reason = ""
        self._max_chars = max_chars
        self._chars = 0
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _GrowingCall] = {}

    @property
    def calls(self) -> int:
        """How many tool calls have begun."""
        return len(self._calls)

    @property
    def has_text(self) -> bool:
        """True if some of it was said."""
        return bool(self._text)

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
        if not arguments:
            return []
        call.arguments += arguments
        self._count(len(arguments))
        return [Piece(DeltaKind.TOOL_ARGUMENTS, arguments)]

    def finish(self, usage: Consumption | None, *, prompt_chars: int) -> ModelReply:
        """The whole reply; without `usage` from the server that is estimated.

        Raises ModelFailed if the stream broke off or said nothing, ModelRefused if a filter
        withheld the reply.
        """
        text = "".join(self._text)
        if not self.finish_reason:
            raise ModelFailed("the model server broke off in the middle of its reply")
        if self.finish_reason == "content_filter":
            raise ModelRefused("the model server's content filter withheld the reply")
        if not self._calls and not text.strip():
            raise ModelFailed("the model answered with an empty reply")
        return ModelReply(
            text=text,
            calls=tuple(
                Call(call.call_id, call.name, call.arguments or "{}")
                for _, call in sorted(self._calls.items())
            ),
            reasoning="".join(self._reasoning),
            finish_reason=self.finish_reason,
            usage=usage or self._estimate(prompt_chars),
            model=self.model,
        )

    def _add(self, kind: DeltaKind, parts: list[str], text: object) -> list[Piece]:
        if not isinstance(text, str) or not text:
            return []
        parts.append(text)
        self._count(len(text))
        return [Piece(kind, text)]

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
