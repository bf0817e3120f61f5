"""Tool calls that a person has to approve: what definitions say, and which calls they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Final

from meshkit.builtin_tools import BUILTIN_TOOLS
from pydantic import BaseModel, ConfigDict, Field

LONGEST_WAIT: Final = 366 * 24 * 3600.0
DEFAULT_WAIT: Final = 7 * 24 * 3600.0
"""Seconds that a person is waited for where nothing else is said."""
_ANY: Final = "*"


class ApproverRole(StrEnum):
    """Who of those who take part in a conversation may decide; each includes those before it."""

    USER = "user"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: ApproverRole) -> bool:
        """True if it may decide what `other` may."""
        ranks = list(ApproverRole)
        return ranks.index(self) >= ranks.index(other)


class ExpiryAction(StrEnum):
    """What becomes of a call that nobody decides on."""

    REJECT = "reject"
    APPROVE = "approve"


class ApprovalPolicySpec(BaseModel):
    """Which calls need a person's approval, and how it is asked for.

    `tools`, `agents`, and the values of `arguments` and `unless` are patterns with `*`, `?` and
    `[…]`; spans are in seconds. `agents` is for the policies of a team.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    arguments: dict[str, str] = Field(default_factory=dict)
    unless: dict[str, str] = Field(default_factory=dict)
    role: ApproverRole = ApproverRole.USER
    expires_after: float = Field(default=DEFAULT_WAIT, gt=0, le=LONGEST_WAIT)
    on_expiry: ExpiryAction = ExpiryAction.REJECT
    escalate_after: float | None = Field(default=None, gt=0, le=LONGEST_WAIT)
    escalate_to: ApproverRole | None = None
    prompt: str = Field(default="", max_length=4096)

    def covers_tool(self, tool: str) -> bool:
        """True if calls of this tool may fall under it."""
        return _matches_any(tool, self.tools)

    def covers_agent(self, *names: str) -> bool:
        """True if it is about an agent of one of these names: its id, its path."""
        return any(_matches_any(name, self.agents) for name in names)

    def covers_arguments(self, arguments_json: str) -> bool:
        """True unless the arguments let the call pass. What cannot be read never does."""
        arguments = _read(arguments_json)
        if arguments is None:
            return True
        if self.arguments and not _match(arguments, self.arguments, any):
            return False
        return not (self.unless and _match(arguments, self.unless, all))


def policy_problems(
    policies: Sequence[ApprovalPolicySpec],
    tools: Sequence[str] | None,
    agents: Sequence[str] | None,
) -> Iterator[tuple[str, str]]:
    """What is wrong, as (path within the list, description).

    `tools` are those that the agents have, `agents` their ids and paths; None if that is not known
    here. An empty list of agents: the policies of an agent, which name none.
    """
    for index, policy in enumerate(policies):
        for path, description in _problems(policy, tools, agents):
            yield f"[{index}].{path}", description


def _problems(
    policy: ApprovalPolicySpec, tools: Sequence[str] | None, agents: Sequence[str] | None
) -> Iterator[tuple[str, str]]:
    for number, pattern in enumerate(policy.tools):
        if problem := _pattern_problem(pattern):
            yield f"tools[{number}]", problem
        elif pattern in BUILTIN_TOOLS:
            yield f"tools[{number}]", f"{pattern} asks a person itself and needs no approval"
        elif tools is not None and not any(fnmatchcase(tool, pattern) for tool in tools):
            yield f"tools[{number}]", f"{pattern!r} is no tool here; add it to tools or mend it"
    for number, pattern in enumerate(policy.agents):
        if agents == ():
            yield f"agents[{number}]", "is for the policies of a team; remove it"
        elif problem := _pattern_problem(pattern):
            yield f"agents[{number}]", problem
        elif agents is not None and not any(fnmatchcase(agent, pattern) for agent in agents):
            yield f"agents[{number}]", f"{pattern!r} is no member of the team"
    for field in ("arguments", "unless"):
        for where, pattern in getattr(policy, field).items():
            if not all(where.split(".")):
                yield f"{field}.{where}", "is no path such as options.force"
            elif problem := _pattern_problem(pattern):
                yield f"{field}.{where}", problem
    yield from _escalation_problems(policy)


def _escalation_problems(policy: ApprovalPolicySpec) -> Iterator[tuple[str, str]]:
    after, to = policy.escalate_after, policy.escalate_to
    if after is None and to is None:
        return
    if after is None:
        yield "escalate_after", "must be set with escalate_to"
    elif to is None:
        yield "escalate_to", "must be set with escalate_after"
    elif policy.role.includes(to):
        yield "escalate_to", f"must be a higher role than {policy.role}"
    elif after >= policy.expires_after:
        yield "escalate_after", "must be less than expires_after"


def _pattern_problem(pattern: str) -> str | None:
    if not pattern:
        return "an empty pattern matches nothing; use * for everything"
    rest = pattern
    while "[" in rest:
        rest = rest[rest.index("[") + 1 :]
        # As fnmatch reads it: a bracket right at the beginning is a member of the set.
        end = rest.find("]", 2 if rest.startswith("!") else 1)
        if end < 0:
            return f"{pattern!r} has a [ without its ]; write [[] for the character itself"
        rest = rest[end + 1 :]
    return None


def _matches_any(text: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)


def _read(arguments_json: str) -> dict[str, Any] | None:
    """The arguments; None if they are no JSON object that everybody reads in the same way."""
    try:
        arguments = json.loads(arguments_json, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _match(
    arguments: Mapping[str, Any],
    patterns: Mapping[str, str],
    enough: Callable[[Iterable[bool]], bool],
) -> bool:
    """True if every path leads somewhere, and there matches `enough`: any of it, or all."""
    for path, pattern in patterns.items():
        found = [fnmatchcase(_text(v), pattern) for v in _values(arguments, path.split("."))]
        if not found or not enough(found):
            return False
    return True


def _values(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """What a path leads to: nothing, one thing, or with `*` several."""
    if not path:
        yield value
        return
    step, *rest = path
    if isinstance(value, dict):
        keys = list(value) if step == _ANY else [step] if step in value else []
        for key in keys:
            yield from _values(value[key], rest)
    elif isinstance(value, list):
        items = value if step == _ANY else value[int(step) :][:1] if step.isdecimal() else []
        for item in items:
            yield from _values(item, rest)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
