"""How a function is declared to be a tool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, overload

_ATTRIBUTE: Final = "__agentmesh_tool__"
_Function = TypeVar("_Function", bound=Callable[..., Any])


class ToolFailed(Exception):  # noqa: N818  # a tool fails; that is no error of the program
    """Raised by a tool that could not do what it is for: the model is told the text.

    `retry` says that nothing was done and that another attempt may succeed.
    """

    def __init__(self, text: str, *, retry: bool = False) -> None:
        super().__init__(text)
        self.retry = retry


@dataclass(frozen=True)
class Declaration:
    """What `@tool` says of a function."""

    safe_to_repeat: bool = False
    cacheable: bool = False
    timeout: float | None = None
    retries: int = 0
    concurrency: int = 0


@overload
def tool(function: _Function, /) -> _Function: ...


@overload
def tool(
    *,
    safe_to_repeat: bool = ...,
    cacheable: bool = ...,
    timeout: float | None = ...,
    retries: int = ...,
    concurrency: int = ...,
) -> Callable[[_Function], _Function]: ...


def tool(
    function: _Function | None = None,
    /,
    *,
    safe_to_repeat: bool = False,
    cacheable: bool = False,
    timeout: float | None = None,
    retries: int = 0,
    concurrency: int = 0,
) -> _Function | Callable[[_Function], _Function]:
    """Declares a function, sync or async, to be a tool. It stays a function like any other.

    Its type hints are the schemas, its docstring is what models are told. `safe_to_repeat`: a call
    whose outcome is not known may be made again. `cacheable`: nothing but the arguments decides the
    result. `timeout`: seconds for one call, `retries`: after failures that may pass, for agents
    that set none. `concurrency`: most calls at once of one runner, 0 for no bound of its own.

    Raises ValueError for numbers that make no sense.
    """
    if timeout is not None and not 0 < timeout <= 86_400:
        raise ValueError("timeout: must be more than 0 and at most 86400 seconds")
    if not 0 <= retries <= 10:
        raise ValueError("retries: must be between 0 and 10")
    if not 0 <= concurrency <= 1000:
        raise ValueError("concurrency: must be between 0 and 1000")
    declaration = Declaration(safe_to_repeat, cacheable, timeout, retries, concurrency)

    def declare(declared: _Function) -> _Function:
        setattr(declared, _ATTRIBUTE, declaration)
        return declared

    return declare(function) if function is not None else declare


def declaration_of(function: object) -> Declaration | None:
    """What `@tool` says of it; None if it was not declared."""
    found = getattr(function, _ATTRIBUTE, None)
    return found if isinstance(found, Declaration) else None
