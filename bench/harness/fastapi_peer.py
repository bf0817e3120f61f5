"""The reference of `rest`: what one writes with FastAPI in front of the store, in its own process.

GET /conversations/{conversation_id} calls the store's GetConversation over a bare grpc.aio stub and
returns the message as a dictionary. No authentication, no limits, no traces.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import uvicorn
import uvloop
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
    ConversationStoreServiceStub,
)
from fastapi import FastAPI
from google.protobuf.json_format import MessageToDict
from meshkit.client_calls import call_headers
from meshkit.identity import InternalIdentity, Principal
from meshkit.settings import ServiceSettings
from pydantic import SecretStr

SECRET_VARIABLE = "BENCH_MESH_SECRET"  # noqa: S105  its name
_CALLER = Principal(subject="bench", tenant="default", role=3)


def application(store_address: str) -> FastAPI:
    """The API."""
    app = FastAPI()
    secret = SecretStr(os.environ[SECRET_VARIABLE])
    settings = ServiceSettings(data_dir=Path("/nonexistent"), internal_secret=secret)
    identity = InternalIdentity("gateway", settings)
    stub: Any = ConversationStoreServiceStub(grpc.aio.insecure_channel(store_address))

    @app.get("/conversations/{conversation_id}")
    async def get_conversation(conversation_id: str) -> dict[str, Any]:
        response = await stub.GetConversation(
            store_pb2.GetConversationRequest(conversation_id=conversation_id),
            metadata=call_headers(identity, _CALLER, None),
        )
        content: dict[str, Any] = MessageToDict(
            response.conversation, preserving_proto_field_name=True
        )
        return content

    return app


async def serve(store_address: str) -> None:
    """Listens and says where."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    config = uvicorn.Config(
        application(store_address),
        http="httptools",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=300,  # as long as the other side's round may take
    )
    print(listener.getsockname()[1], flush=True)
    await asyncio.gather(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
