"""The JSON binding of the REST edge and the field rules, fed by atheris: inputs that reach new
lines breed more. Run by `python -m tests.fuzz.coverage_guided -atheris_runs=20000`; an exception
that is none of theirs ends it with its input and a status other than 0."""

from __future__ import annotations

import sys
from typing import Any

import atheris

with atheris.instrument_imports(include=["agentmesh_gateway.rest", "meshkit.times"]):
    from agentmesh_gateway.public_api import PUBLIC_SERVICES
    from agentmesh_gateway.rest.binding import bind
    from agentmesh_gateway.rest.codec import MalformedJsonError, encode_message, parse_json
    from agentmesh_gateway.rest.routes import Match, routes_of
    from meshkit.errors import MeshError
    from meshkit.validation import decoding, validate

ROUTES = [route for route in routes_of(PUBLIC_SERVICES) if not route.is_upload]


def try_one(data: bytes) -> None:
    """The first byte chooses the route, the second one whether the rest is JSON or protobuf."""
    if len(data) < 2:
        return
    route = ROUTES[data[0] % len(ROUTES)]
    try:
        message: Any = _from_json(route, data[2:]) if data[1] % 2 else _decoded(route, data[2:])
        validate(message)
        encode_message(message)
    except (MeshError, MalformedJsonError):
        return


def _from_json(route: Any, data: bytes) -> Any:
    query, _, body = data.partition(b"\0")
    values = {name: query.decode("latin-1") for name in route.template.variables}
    document = parse_json(body) if body else None
    message, problems = bind(Match(route, values), query.decode("latin-1"), document)
    if problems:
        raise MeshError.malformed("refused")
    return message


def _decoded(route: Any, data: bytes) -> Any:
    decode: Any = decoding(route.request_type.FromString)
    return decode(data)


def main() -> None:
    """Runs until a defect is found or the runs are over."""
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
