"""From an HTTP request's path, query and body to the request message of a route."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, unquote

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from agentmesh_gateway.descriptors import is_map, is_repeated, message_type
from agentmesh_gateway.rest import wellknown
from agentmesh_gateway.rest.codec import JsonObject, message_codec
from agentmesh_gateway.rest.problems import Path, Problems
from agentmesh_gateway.rest.routes import Match
from agentmesh_gateway.rest.scalars import parse_query_scalar

MAX_QUERY_FIELDS = 200


def bind(match: Match, query: str, body: Any | None) -> tuple[Message, Problems]:
    """The request message of `match`, and what is wrong with it.

    `query` is the raw query string, `body` the parsed JSON document or None if there was none.
    Path values win: naming a path's field again in the query or body is a problem.
    """
    route = match.route
    problems = Problems()
    message = route.request_type()
    document: JsonObject = {}
    if route.body == "*":
        if body is None or isinstance(body, dict):
            document = dict(body or {})
        else:
            problems.add("", "the body must be a JSON object")
    elif route.body and body is not None:
        document = {route.body: body}
    elif body is not None:
        problems.add("", "this method takes no body")
    _refuse_path_fields(match, document, problems)
    _add_query(route.request, _query_pairs(query, problems), document, match, problems)
    _add_path(match, document, problems)
    message_codec(route.request).decode(document, message, Path(), problems)
    return message, problems


def _refuse_path_fields(match: Match, document: JsonObject, problems: Problems) -> None:
    for name in match.path_values:
        if name in document:
            problems.add(name, "is part of the path and must not be given again")
            del document[name]


def _add_path(match: Match, document: JsonObject, problems: Problems) -> None:
    for name, raw in match.path_values.items():
        try:
            text = unquote(raw, errors="strict")
        except UnicodeDecodeError:
            problems.add(name, "is not UTF-8 when percent-decoded")
            continue
        document[name] = parse_query_scalar(match.route.request.fields_by_name[name], text)


def _query_pairs(query: str, problems: Problems) -> list[tuple[str, str]]:
    if not query:
        return []
    try:
        return parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except UnicodeDecodeError:
        problems.add("", "the query is not UTF-8 when percent-decoded")
    except ValueError:
        problems.add("", f"the query has more than {MAX_QUERY_FIELDS} fields")
    return []


def _add_query(
    request: Descriptor,
    pairs: Iterable[tuple[str, str]],
    document: JsonObject,
    match: Match,
    problems: Problems,
) -> None:
    seen: set[str] = set()
    for name, text in pairs:
        if match.route.body == "*":
            problems.add(name, "must be in the body, not in the query")
            continue
        if name in match.path_values or name.split(".")[0] == match.route.body:
            problems.add(name, "must not be in the query")
            continue
        field = _descend(request, name.split("."))
        if field is None:
            problems.add(name, message_codec(request).unknown(name))
            continue
        if not fits_query(field):
            problems.add(name, "cannot be given in a query; name one of its fields")
            continue
        repeated = is_repeated(field)
        if name in seen and not repeated:
            problems.add(name, "is given twice")
            continue
        seen.add(name)
        value = parse_query_scalar(field, text)
        _put(document, name.split("."), value, repeated=repeated)


def _descend(message: Descriptor, names: list[str]) -> FieldDescriptor | None:
    """The field at a dotted path, through singular messages only."""
    for position, name in enumerate(names):
        field: FieldDescriptor | None = message.fields_by_name.get(name)
        if field is None or position == len(names) - 1:
            return field
        if field.type != FieldDescriptor.TYPE_MESSAGE or is_repeated(field):
            return None
        message = message_type(field)
    return None


def fits_query(field: FieldDescriptor) -> bool:
    """Whether a field is one parameter of a query; other messages are named field by field."""
    if is_map(field):
        return False
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        return True
    name = message_type(field).full_name
    return name in wellknown.DECODERS and name not in _STRUCTURED


_STRUCTURED = frozenset(f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue"))


def _put(document: JsonObject, names: list[str], value: Any, *, repeated: bool = False) -> None:
    *parents, last = names
    for name in parents:
        document = document.setdefault(name, {})
    if repeated:
        document.setdefault(last, []).append(value)
    else:
        document[last] = value
