"""What a declared function is as a tool: schemas of its hints, words of its docstring."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Union, get_type_hints

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from agentmesh_tool_runner.extension.context import AsyncContext, Context
from agentmesh_tool_runner.extension.declared import Declaration, declaration_of
from agentmesh_tool_runner.tools.schemas import schema_of

_RESULT: Final = "result"
_WRAPPED: Final = ConfigDict(extra="forbid", arbitrary_types_allowed=False)


class UnusableToolError(Exception):
    """The function cannot be offered; the text says what to mend."""


class NoJsonError(Exception):
    """The function returned what is no JSON."""


@dataclass(frozen=True)
class Function:
    """A function that can be called with JSON."""

    name: str
    call: Callable[..., Any]
    declaration: Declaration
    description: str
    arguments: type[BaseModel]
    names: Mapping[str, str]
    """Parameters by the fields of `arguments`."""
    context: tuple[str, type[Context] | type[AsyncContext]] | None
    returns: TypeAdapter[Any] | None
    output_schema: Mapping[str, Any] | None
    wraps: bool
    """True if the result is no object and stands in one as "result"."""

    @property
    def is_async(self) -> bool:
        """True if it is to be awaited."""
        return inspect.iscoroutinefunction(self.call)

    def spec(self) -> dict[str, Any]:
        """The fields of a ToolSpec, as JSON."""
        declared = self.declaration
        return {
            "name": self.name,
            "description": self.description,
            "parameters": schema_of(self.arguments),
            "safe_to_repeat": declared.safe_to_repeat,
            "output_schema": self.output_schema,
            "timeout_seconds": declared.timeout,
            "retries": declared.retries,
            "concurrency": declared.concurrency,
            "cacheable": declared.cacheable,
            "uses_workspace": self.context is not None,
        }

    def bound(self, arguments_json: str, context: Context | AsyncContext) -> Callable[[], Any]:
        """The call. Raises pydantic's ValidationError."""
        given = self.arguments.model_validate_json(arguments_json or "{}")
        values = {name: getattr(given, field) for field, name in self.names.items()}
        if self.context is not None:
            values[self.context[0]] = context
        return partial(self.call, **values)

    def answer(self, value: Any) -> tuple[str, dict[str, Any]]:
        """What the model is told, and the detail for programs. Raises NoJsonError."""
        adapter = self.returns or TypeAdapter(Any)
        try:
            plain = adapter.dump_python(value, mode="json", by_alias=True, warnings="none")
            text = plain if isinstance(plain, str) else _json(plain)
        except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
            raise NoJsonError(f"{type(value).__name__} is no JSON: {str(error)[:300]}") from None
        wraps = self.wraps or not isinstance(plain, dict)
        if wraps and not self.wraps and self.returns is not None:
            raise NoJsonError(f"it promises an object and returned {type(value).__name__}")
        return text, {_RESULT: plain} if wraps else plain


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def described(name: str, function: object) -> Function:
    """The function as a tool. Raises UnusableToolError."""
    declaration = declaration_of(function)
    if declaration is None or not callable(function):
        raise UnusableToolError("it is no function that is declared with @tool")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UnusableToolError("it is a generator; return the result as a whole")
    try:
        signature = inspect.signature(function)
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        raise UnusableToolError(f"its type hints cannot be read: {error}") from None
    words = docstring_parser.parse(inspect.getdoc(function) or "")
    description = _description(words)
    context = _context_of(signature, hints, is_async=inspect.iscoroutinefunction(function))
    if context is not None and declaration.cacheable:
        raise UnusableToolError("it takes a context, so its result depends on more: not cacheable")
    arguments, names = _arguments(name, signature, hints, words, context[0] if context else "")
    returns = _adapter(hints["return"]) if "return" in hints else None
    output_schema, wraps = (None, False) if returns is None else _output(returns)
    return Function(
        name,
        function,
        declaration,
        description,
        arguments,
        names,
        context,
        returns,
        output_schema,
        wraps,
    )


def _description(words: docstring_parser.Docstring) -> str:
    parts = [words.short_description, words.long_description]
    if words.returns is not None and words.returns.description:
        parts.append(f"Returns: {words.returns.description}")
    text = "\n\n".join(part for part in parts if part)
    if not text:
        raise UnusableToolError("it has no docstring, and models are told nothing else of it")
    return text


def _context_of(
    signature: inspect.Signature, hints: Mapping[str, Any], *, is_async: bool
) -> tuple[str, type[Context] | type[AsyncContext]] | None:
    found = [name for name in signature.parameters if hints.get(name) in (Context, AsyncContext)]
    if not found:
        return None
    wanted = AsyncContext if is_async else Context
    if len(found) > 1 or hints[found[0]] is not wanted:
        raise UnusableToolError(f"it can take one context, a {wanted.__name__}")
    return found[0], wanted


def _arguments(
    name: str,
    signature: inspect.Signature,
    hints: Mapping[str, Any],
    words: docstring_parser.Docstring,
    context: str,
) -> tuple[type[BaseModel], dict[str, str]]:
    """A model whose fields have names of their own: a parameter may be called as it likes."""
    told = {each.arg_name: each.description for each in words.params if each.description}
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    for number, parameter in enumerate(signature.parameters.values()):
        if parameter.name == context:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UnusableToolError(f"{parameter.name}: parameters need names")
        if parameter.name not in hints:
            raise UnusableToolError(f"{parameter.name}: has no type hint")
        field = f"argument_{number}"
        names[field] = parameter.name
        hint, default = hints[parameter.name], parameter.default
        if default is None:
            hint = Union[hint, None]  # noqa: UP007  # of any hint, also of one without "|"
        about: Any = Field(alias=parameter.name)
        if parameter.name in told and not FieldInfo.from_annotation(hint).description:
            about = Field(alias=parameter.name, description=told[parameter.name])
        if isinstance(default, FieldInfo):
            fields[field] = (Annotated[hint, about], default)
        else:
            fields[field] = (Annotated[hint, about], ... if default is parameter.empty else default)
    try:
        return create_model(name, __config__=_WRAPPED, **fields), names
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise UnusableToolError(f"its arguments are no JSON: {_first_line(error)}") from None


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise UnusableToolError(f"its result is no JSON: {_first_line(error)}") from None


def _output(returns: TypeAdapter[Any]) -> tuple[dict[str, Any], bool]:
    try:
        schema = returns.json_schema(mode="serialization", by_alias=True)
    except PydanticUserError as error:
        raise UnusableToolError(f"its result is no JSON: {_first_line(error)}") from None
    if schema.get("type") == "object":
        return schema, False
    wrapped: dict[str, Any] = {
        "type": "object",
        "properties": {_RESULT: schema},
        "required": [_RESULT],
    }
    if "$defs" in schema:
        wrapped["$defs"] = schema.pop("$defs")
    return wrapped, True


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
