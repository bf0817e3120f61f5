"""The script's file format: rules in order, of which the first that matches answers.

A rule without `after` answers the first request of a turn; one with `after` answers when that
tool's result has just come. Regular expressions are searched for; their named groups, and
`{{task}}`, `{{result}}`, `{{result:TOOL}}`, `{{agent}}`, `{{role}}` and `{{file:NAME}}` stand in
texts and arguments.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from agentmesh_agent_runtime.definitions.specs import Spec
from agentmesh_agent_runtime.definitions.yaml_source import DefinitionError, load_document


def _compiled(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error


Pattern = Annotated[re.Pattern[str], BeforeValidator(_compiled)]


class AfterTool(Spec):
    """Matches a tool result that has just come."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    tool: Pattern
    arguments: Pattern | None = None
    result: Pattern | None = None


class Condition(Spec):
    """All that is set must match.

    `agent` and `role` match the asker, `task` what people said, `heard` anything in the request's
    history, `results` a tool's newest result in it, `stage` a staged team's stage, `rounds_from`
    the run's rounds taken so far.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    agent: Pattern | None = None
    role: Pattern | None = None
    task: Pattern | None = None
    stage: Pattern | None = None
    heard: Pattern | None = None
    not_heard: Pattern | None = None
    results: dict[str, Pattern] = Field(default_factory=dict)
    rounds_from: int = Field(default=0, ge=0)
    after: AfterTool | Literal["any"] | None = None


class ScriptedCall(Spec):
    """A tool call to make; strings anywhere in the arguments are templates."""

    tool: str = Field(min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)


class Rule(Spec):
    """What to answer when the condition holds."""

    name: str = Field(min_length=1)
    when: Condition = Condition()
    think: str = ""
    say: str = ""
    call: tuple[ScriptedCall, ...] = ()

    @model_validator(mode="after")
    def _answers(self) -> Self:
        if not self.say and not self.call:
            raise ValueError("answers nothing; give it 'say', 'call', or both")
        return self


class ScriptFile(Spec):
    """A whole file."""

    rules: tuple[Rule, ...] = ()


class Script:
    """Rules in order, and the folder whose files they may quote."""

    def __init__(self, rules: tuple[Rule, ...], folder: Path) -> None:
        self.rules = rules
        self._folder = folder

    @classmethod
    def load(cls, source: Path) -> Script:
        """Reads a script. Raises DefinitionError with file, line and remedy."""
        script = cls(load_document(source, ScriptFile).rules, source.parent)
        for rule in script.rules:
            for name in re.findall(r"\{\{file:([^}]+)\}\}", rule.model_dump_json()):
                try:
                    script.file(name)
                except OSError as error:
                    raise DefinitionError(
                        f"{source}: rule {rule.name!r} quotes the file {name!r}, which cannot be "
                        f"read ({error.strerror}); put it beside the script"
                    ) from error
        return script

    def file(self, name: str) -> str:
        """The text of a file beside the script. Raises OSError."""
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise FileNotFoundError(2, "lies outside the script's folder", name)
        return path.read_text(encoding="utf-8")
