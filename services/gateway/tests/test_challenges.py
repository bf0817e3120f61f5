"""WWW-Authenticate says how to log in, and what was wrong with what came."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh_gateway.rest.challenges import HEADER, challenges
from meshkit.errors import MeshError, to_rich_status

from .conftest import Gateways

KEY = 'ApiKey realm="agentmesh", header="x-api-key"'
BEARER = 'Bearer realm="agentmesh"'


@pytest.mark.parametrize(
    ("headers", "bearer"),
    [
        ({"host": "agentmesh.example"}, BEARER),  # while no key exists
        ({"authorization": "Basic dTpw"}, f'{BEARER}, error="invalid_token"'),
    ],
    ids=["none", "of another scheme"],
)
async def test_a_refusal_says_how_to_log_in(
    gateways: Gateways, headers: dict[str, str], bearer: str
) -> None:
    gateway = await gateways.start(allow_anonymous="host" not in headers, oidc=ISSUER)
    for method, path in (("GET", "/agents"), ("POST", "/conversations/start")):
        response = await gateway.http.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.headers.get_list("www-authenticate") == [bearer, KEY]


ISSUER: Any = [
    {"issuer": "http://127.0.0.1:9", "audience": "a", "tenant": "t", "default_role": "viewer"}
]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            MeshError.credentials_expired("the token has expired", "2026-01-01T00:00:00Z"),
            [f'{BEARER}, error="invalid_token", error_description="the token has expired"', KEY],
        ),
        (
            MeshError.scope_missing("agents:write", {"agents:read"}),
            [f'{BEARER}, error="insufficient_scope", scope="agents:write"'],
        ),
        (MeshError.role_too_low("admin", "viewer"), []),
        (MeshError.not_found("agent", "a"), []),
    ],
    ids=["expired", "scope", "role", "not found"],
)
def test_what_another_token_would_help(error: MeshError, said: list[str]) -> None:
    named = challenges(to_rich_status(error))
    assert [(HEADER, value.encode()) for value in said] == named
