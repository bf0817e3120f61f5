"""Keys of several tenants, and calls with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentmesh.common.v1 import options_pb2
from agentmesh.conversation_store.v1 import identity_service_pb2 as identity_pb2
from agentmesh.conversation_store.v1.identity_service_pb2_grpc import IdentityServiceStub
from meshkit.channels import call_metadata
from meshkit.identity import Principal
from meshkit.testkit import HostFactory

from .front import Front


@dataclass(frozen=True)
class Caller:
    """Somebody with a key."""

    secret: str
    key_id: str

    @property
    def headers(self) -> dict[str, str]:
        """For REST."""
        return {"x-api-key": self.secret}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """For gRPC."""
        return (("x-api-key", self.secret),)


def store_stub(hosts: HostFactory, front: Front, stub: Any) -> Any:
    """A stub for the store itself, past the gateway."""
    channel = hosts.channels("gateway").channel(front.store.grpc_address, "conversation_store")
    return stub(channel)


async def caller(front: Front, hosts: HostFactory, role: str, tenant: str = "acme") -> Caller:
    """Makes a key; from then on nobody gets in without one."""
    administrator = Principal(subject="test", tenant=tenant, role=options_pb2.ROLE_ADMIN)
    made = await store_stub(hosts, front, IdentityServiceStub).CreateKey(
        identity_pb2.CreateKeyRequest(
            role=options_pb2.Role.Value(f"ROLE_{role.upper()}"), name=role
        ),
        metadata=call_metadata(administrator),
    )
    return Caller(made.secret, made.key.key_id)
