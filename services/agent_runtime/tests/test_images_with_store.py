"""Images of inputs out of the blobs of a real store, through a runtime that is killed."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation.v1.message_pb2 import BlobPart, DataPart, Part
from google.protobuf.struct_pb2 import Struct

from services.agent_runtime.tests.memory_world import agent, team
from services.agent_runtime.tests.real_mesh import StartMesh
from tests.support.model_server import ModelServer, Reply

PICTURE = b"\xff\xd8\xff" + bytes(range(256)) * 8192
"""Of 2 MiB, so that it comes in chunks."""


def images(body: dict[str, Any]) -> list[bytes]:
    urls = [
        part["image_url"]["url"]
        for message in body["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


async def test_a_killed_runtime_shows_images_again(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    # A model that AutoGen knows to see.
    members = [agent(name, llm_config={"model": "gpt-4o"}) for name in ("alice", "bob")]
    model_server.reply_with(lambda body, number: Reply(f"I see {len(images(body))}"))
    model_server.delay = 0.3
    mesh = await start_mesh()
    digest = await mesh.upload(PICTURE)
    image = Part(blob=BlobPart(digest=digest, media_type="image/jpeg", filename="cat.jpg"))
    note = Part(blob=BlobPart(digest=await mesh.upload(b"%PDF"), media_type="application/pdf"))
    data = Struct()
    data.update({"kilograms": 4})
    parts = [image, note, Part(data=DataPart(data=data))]
    conversation = await mesh.begin(team(*members), "Look:", max_rounds=4, parts=parts)
    async with asyncio.timeout(60):
        while len(model_server.requests) < 2:
            await asyncio.sleep(0.01)
    await mesh.runtimes[0].restart()
    ended = await mesh.settled(conversation)
    assert ended.run.end_reason == conversation_pb2.RUN_END_REASON_MAX_ROUNDS, mesh.runtimes[
        0
    ].log()
    said = [text for who, text in await mesh.texts(conversation) if who != "user"]
    assert said == ["I see 1"] * 4
    assert all(images(body) == [PICTURE] for body in model_server.requests)
    words = str(model_server.requests[0]["messages"])
    assert "[a file: application/pdf, 4 bytes]" in words
    assert '{"kilograms": 4}' in words
    # A message later the conversation still has its image, and another one.
    await mesh.send(conversation, "And now?", parts=[image])
    async with asyncio.timeout(60):
        while len(await mesh.texts(conversation)) < 7:
            await asyncio.sleep(0.05)
    assert (await mesh.texts(conversation))[6] == ("alice", "I see 2")
    await mesh.settled(conversation)


async def test_a_model_that_cannot_see_hears_of_the_image(
    start_mesh: StartMesh, model_server: ModelServer
) -> None:
    model_server.reply_with(Reply("well"))
    mesh = await start_mesh()
    image = Part(blob=BlobPart(digest=await mesh.upload(PICTURE), media_type="image/jpeg"))
    conversation = await mesh.begin(team(agent("alice")), "Look:", max_rounds=1, parts=[image])
    await mesh.settled(conversation)
    (body,) = model_server.requests
    assert images(body) == []
    assert f"[an image: image/jpeg, {len(PICTURE)} bytes]" in str(body["messages"])
