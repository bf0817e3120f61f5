"""An OpenID Connect issuer on loopback: discovery, keys that rotate, tokens, and faults."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "agentmesh"


@dataclass
class SigningKey:
    """A private key under a name."""

    kid: str
    algorithm: str
    private: Any

    @classmethod
    def ec(cls, kid: str) -> SigningKey:
        """For ES256."""
        return cls(kid, "ES256", ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def rsa(cls, kid: str, bits: int = 2048) -> SigningKey:
        """For RS256."""
        return cls(kid, "RS256", rsa.generate_private_key(65537, bits))

    def published(self) -> dict[str, Any]:
        """As a JWK."""
        convert = RSAAlgorithm if self.algorithm.startswith("RS") else ECAlgorithm
        jwk: dict[str, Any] = json.loads(convert.to_jwk(self.private.public_key()))
        return {**jwk, "kid": self.kid, "use": "sig", "alg": self.algorithm}


@dataclass
class OidcServer:
    """The issuer. Tests change its fields while it runs."""

    keys: list[SigningKey] = field(default_factory=lambda: [SigningKey.ec("key-1")])
    requests: list[str] = field(default_factory=list)
    url: str = ""
    status: int = 200
    body: bytes | None = None
    """Instead of any document."""
    says_issuer: str | None = None
    delay: float = 0.0
    padding: int = 0
    """Bytes more in each document."""
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Cannot be reached any more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def token(self, key: SigningKey | None = None, **claims: Any) -> str:
        """A token that is good unless `claims` make it bad; None removes a claim."""
        now = int(time.time())
        payload = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "tenant": "acme",
            "roles": ["mesh-admins"],
            "iat": now,
            "exp": now + 600,
        } | claims
        signer = key or self.keys[-1]
        return jwt.encode(
            {name: value for name, value in payload.items() if value is not None},
            signer.private,
            algorithm=signer.algorithm,
            headers={"kid": signer.kid},
        )

    def settings(self, **fields: Any) -> dict[str, Any]:
        """An entry of AGENTMESH_OIDC for this issuer."""
        return {
            "issuer": self.url,
            "audience": AUDIENCE,
            "tenant_claim": "tenant",
            "roles": {"mesh-admins": "admin", "mesh-readers": "viewer"},
            # A busy machine is no failing issuer.
            "fetch_seconds": 60,
        } | fields

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        path = request.split(b" ")[1].decode()
        self.requests.append(path)
        await asyncio.sleep(self.delay)
        body = self.body if self.body is not None else json.dumps(self._document(path)).encode()
        head = f"HTTP/1.1 {self.status} X\r\nlocation: {self.url}/jwks\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        try:
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            pass  # it did not want to read so much

    def _document(self, path: str) -> dict[str, Any]:
        if path.endswith("openid-configuration"):
            document: dict[str, Any] = {"issuer": self.says_issuer or self.url}
            document["jwks_uri"] = f"{self.url}/jwks"
        else:
            document = {"keys": [key.published() for key in self.keys]}
        return document | {"padding": "x" * self.padding}


@pytest_asyncio.fixture
async def issuer() -> AsyncIterator[OidcServer]:
    """One that runs as long as the test."""
    server = OidcServer()
    await server.start()
    yield server
    await server.stop()
