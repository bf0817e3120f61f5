"""Finds the rule that answers a request, and fills in its templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autogen_core import FunctionCall
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    UserMessage,
)

from agentmesh_agent_runtime.models.replies import ModelRequest
from agentmesh_agent_runtime.models.scripted.rules import AfterTool, Condition, Rule

PEOPLE = frozenset({"user", "human"})
_PLACEHOLDER = re.compile(r"\{\{([\w:./-]+)\}\}")


@dataclass(frozen=True)
class Scene:
    """What a rule can look at."""

    request: ModelRequest
    task: str
    heard: str
    results: tuple[tuple[FunctionExecutionResult, str], ...]
    newest: dict[str, str]

    @classmethod
    def of(cls, request: ModelRequest) -> Scene:
        """`results` pairs each fresh tool result with its arguments, `newest` is by tool."""
        said = [m for m in request.messages if isinstance(m, (UserMessage, AssistantMessage))]
        return cls(
            request=request,
            task="\n".join(_text(m) for m in said if m.source in PEOPLE),
            heard="\n".join(_text(m) for m in request.messages if m.type != "SystemMessage"),
            results=_fresh_results(request.messages),
            newest=_newest_results(request.messages),
        )


@dataclass(frozen=True)
class Match:
    """A rule that answers, with the values its templates may use."""

    rule: Rule
    values: dict[str, str]

    def fill(self, template: str, file: Callable[[str], str]) -> str:
        """Replaces placeholders; one that names nothing stays as it is."""

        def value(found: re.Match[str]) -> str:
            name = found.group(1)
            if name.startswith("file:"):
                return file(name.removeprefix("file:"))
            return self.values.get(name, found.group(0))

        return _PLACEHOLDER.sub(value, template)

    def fill_all(self, value: Any, file: Callable[[str], str]) -> Any:
        """`fill` for every string of a JSON value."""
        if isinstance(value, str):
            return self.fill(value, file)
        if isinstance(value, dict):
            return {key: self.fill_all(item, file) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill_all(item, file) for item in value]
        return value


def first_match(rules: tuple[Rule, ...], scene: Scene) -> Match | None:
    """The first rule whose condition holds, and can be carried out with the tools at hand."""
    at_hand = {_tool_name(tool) for tool in scene.request.tools}
    for rule in rules:
        if any(call.tool not in at_hand for call in rule.call):
            continue
        values = _matches(rule.when, scene)
        if values is not None:
            return Match(rule, values)
    return None


def _matches(when: Condition, scene: Scene) -> dict[str, str] | None:
    request = scene.request
    values = {"task": scene.task, "agent": request.agent, "role": request.role}
    values |= {f"result:{tool}": text for tool, text in scene.newest.items()}
    for pattern, text in (
        (when.agent, request.agent),
        (when.role, request.role),
        (when.task, scene.task),
        (when.stage, request.stage),
        (when.heard, scene.heard),
        *((pattern, scene.newest.get(tool, "")) for tool, pattern in when.results.items()),
    ):
        if pattern is not None:
            found = pattern.search(text)
            if found is None:
                return None
            values |= {k: v for k, v in found.groupdict().items() if v is not None}
    if when.not_heard is not None and when.not_heard.search(scene.heard):
        return None
    if request.round < when.rounds_from:
        return None
    if when.after is None:
        return None if scene.results else values
    if not scene.results:
        return None
    if when.after == "any":
        return values | {"result": scene.results[-1][0].content}
    fresh = _match_result(when.after, scene)
    return None if fresh is None else values | fresh


def _match_result(after: AfterTool, scene: Scene) -> dict[str, str] | None:
    for result, arguments in scene.results:
        if not after.tool.search(result.name):
            continue
        values = {"result": result.content}
        for pattern, text in ((after.arguments, arguments), (after.result, result.content)):
            found = pattern.search(text) if pattern is not None else None
            if pattern is not None and found is None:
                break
            if found is not None:
                values |= {k: v for k, v in found.groupdict().items() if v is not None}
        else:
            return values
    return None


def _fresh_results(
    messages: Sequence[LLMMessage],
) -> tuple[tuple[FunctionExecutionResult, str], ...]:
    if not messages or not isinstance(messages[-1], FunctionExecutionResultMessage):
        return ()
    arguments: dict[str, str] = {}
    for message in messages:
        if isinstance(message, AssistantMessage) and not isinstance(message.content, str):
            arguments |= {call.id: call.arguments for call in message.content}
    return tuple((r, arguments.get(r.call_id, "")) for r in messages[-1].content)


def _newest_results(messages: Sequence[LLMMessage]) -> dict[str, str]:
    return {
        result.name: result.content
        for message in messages
        if isinstance(message, FunctionExecutionResultMessage)
        for result in message.content
    }


def _text(message: LLMMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = []
    for item in message.content:
        if isinstance(item, str):
            parts.append(item)
        elif isinstance(item, FunctionExecutionResult):
            parts.append(item.content)
        elif isinstance(item, FunctionCall):
            parts.append(f"{item.name} {item.arguments}")
    return "\n".join(parts)


def _tool_name(tool: Any) -> str:
    return str(tool["name"] if isinstance(tool, dict) else tool.name)
