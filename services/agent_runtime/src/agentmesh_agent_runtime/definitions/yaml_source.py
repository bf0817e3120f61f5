"""Reads agents, teams and model profiles from YAML; says where and how to mend what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo

from agentmesh_agent_runtime.definitions.specs import AgentSpec, ProfileSpec, TeamSpec

Location = tuple[int | str, ...]
Document = TypeVar("Document", bound=BaseModel)


class DefinitionError(ValueError):
    """A definition file cannot be used. The message names file, line, path and remedy."""


def load_agents_and_teams(source: Path) -> tuple[list[AgentSpec], list[TeamSpec]]:
    """Reads a file whose top-level keys are ids, each in the order of the file. What has
    `participants` is a team."""
    found: list[AgentSpec | TeamSpec] = _documents(source, "agent", _agent_or_team)
    return (
        [document for document in found if isinstance(document, AgentSpec)],
        [document for document in found if isinstance(document, TeamSpec)],
    )


def load_documents(source: Path, noun: str, kind: type[Document]) -> list[Document]:
    """Reads a file whose top-level keys are ids of documents of one kind, in its order."""
    return _documents(source, noun, lambda _: kind)


def load_profiles(source: Path) -> list[ProfileSpec]:
    """Reads a file whose top-level keys are names of model profiles, in the order of the file."""
    return load_documents(source, "profile", ProfileSpec)


def _agent_or_team(value: Mapping[str, Any]) -> type[AgentSpec] | type[TeamSpec]:
    return TeamSpec if "participants" in value else AgentSpec


def refusal(source: Path, location: Location, remedy: str) -> DefinitionError:
    """The error of a document that was read and cannot be used, at its line of the file."""
    root, _ = _parse(source, _read(source))
    path = ".".join(str(step) for step in location)
    return DefinitionError(f"{source}:{_line(root, location)}: {path}: {remedy}")


def load_document(source: Path, kind: type[Document]) -> Document:
    """Reads a file that is one document of `kind`. Raises DefinitionError."""
    root, content = _parse(source, _read(source))
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise DefinitionError(_explain(source, root, (), kind, error)) from error


def _read(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8")
    except OSError as error:
        raise DefinitionError(
            f"{source}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise DefinitionError(f"{source}: is not UTF-8; save it as UTF-8") from error


def _documents(
    source: Path, noun: str, kind_of: Callable[[Mapping[str, Any]], type[Document]]
) -> list[Document]:
    root, content = _parse(source, _read(source))
    if not isinstance(content, Mapping):
        raise DefinitionError(
            f"{source}:1: expected a mapping of {noun} ids to definitions, "
            f"found {_yaml_type(content)}; write '<{noun}_id>:' and its fields below"
        )
    documents = []
    for key, value in content.items():
        if not isinstance(value, Mapping):
            raise DefinitionError(
                f"{source}:{_line(root, (str(key),))}: {key}: expected fields, found "
                f"{_yaml_type(value)}; write the {noun}'s fields below its id, indented"
            )
        documents.append(_document(source, root, str(key), value, kind_of(value)))
    return documents


def _document(
    source: Path,
    root: yaml.Node | None,
    key: str,
    value: Mapping[str, Any],
    kind: type[Document],
) -> Document:
    if "id" in value:
        raise DefinitionError(
            f"{source}:{_line(root, (key, 'id'))}: {key}.id: the key is the id; remove the field"
        )
    try:
        return kind.model_validate({**value, "id": key})
    except ValidationError as error:
        raise DefinitionError(_explain(source, root, (key,), kind, error)) from error


def _parse(source: Path, text: str) -> tuple[yaml.Node | None, Any]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise DefinitionError(
            f"{source}{place}: is no YAML: {error.problem}; mind indentation, colons and quotes"
        ) from error
    if isinstance(root, yaml.MappingNode):
        _refuse_duplicates(source, root)
    return root, content


def _refuse_duplicates(source: Path, root: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in root.value:
        if key.value in seen:
            raise DefinitionError(
                f"{source}:{key.start_mark.line + 1}: {key.value} is defined twice "
                f"(first in line {seen[key.value]}); give one of them another id"
            )
        seen[key.value] = key.start_mark.line + 1


def _explain(
    source: Path,
    root: yaml.Node | None,
    prefix: Location,
    kind: type[BaseModel],
    error: ValidationError,
) -> str:
    findings = []
    for detail in error.errors():
        location: Location = detail["loc"]
        where = f"{source}:{_line(root, (*prefix, *location))}"
        path = ".".join(str(step) for step in (*prefix, *location)) or "document"
        findings.append(
            f"{where}: {path}: {_remedy(detail['type'], detail['msg'], location, kind)}"
        )
    return "\n".join(findings)


def _remedy(code: str, message: str, location: Location, kind: type[BaseModel]) -> str:
    if code == "extra_forbidden":
        known = _known_fields(kind, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known fields: {', '.join(known)}"
        return f"unknown field; {hint}"
    if location == ("id",) and kind is ProfileSpec:
        return "a name consists of up to 128 letters, digits and the characters _ . : / -"
    if location == ("id",):
        return "an id consists of letters, digits and underscores, and begins with no digit"
    return message[:1].lower() + message[1:]


def _known_fields(kind: type[BaseModel], location: Location) -> list[str]:
    for step in location:
        if isinstance(step, int):
            continue
        field = kind.model_fields.get(step)
        nested = _nested_model(field.annotation) if field else None
        if nested is None:
            return []
        kind = nested
    return [_as_written(name, field) for name, field in kind.model_fields.items() if name != "id"]


def _as_written(name: str, field: FieldInfo) -> str:
    """What a field is called in documents."""
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else field.alias or name


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as `tuple[Model, ...]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _nested_model(a))), None)


def _line(root: yaml.Node | None, location: Location) -> int:
    """The line of the deepest node on the way to `location`, from 1."""
    node, line = root, 1
    for step in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _yaml_type(value: object) -> str:
    if value is None:
        return "nothing"
    names: dict[type, str] = {str: "text", list: "a list", dict: "a mapping"}
    return names.get(type(value), type(value).__name__)
