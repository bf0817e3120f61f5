"""From an upload over REST to what the model server is sent, and its structured answer back."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from tests.support.conversations import follow
from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer, Reply

PICTURE = b"RIFF\x00\x00\x00\x00WEBP" + bytes(range(256)) * 400
SCHEMA = {
    "type": "object",
    "properties": {"animal": {"enum": ["cat", "dog"]}, "legs": {"type": "integer"}},
    "required": ["animal", "legs"],
    "additionalProperties": False,
}
ANSWER = '{"animal": "cat", "legs": 4}'


@pytest.mark.parametrize("answers", [[ANSWER], ["a cat", ANSWER]])
async def test_an_image_goes_in_over_rest_and_an_object_comes_out(
    model_mesh: Mesh, model_server: ModelServer, answers: list[str]
) -> None:
    model_server.reply_with([Reply(answer) for answer in answers])
    name = f"beholder_{len(answers)}"
    async with httpx.AsyncClient(base_url=model_mesh.rest_url, timeout=30) as rest:
        config = {"role": "Looks", "llm_config": {"model": "gpt-4o"}, "output_schema": SCHEMA}
        await _posted(rest, "/agents/register", {"name": name, "config": config})
        octets = {"content-type": "application/octet-stream"}
        uploaded = await rest.post("/blobs", content=PICTURE, headers=octets)
        digest = uploaded.json()["digest"]
        part = {"blob": {"digest": digest, "media_type": "image/webp", "filename": "a.webp"}}
        started = await _posted(
            rest, "/conversations/start", {"task": "What is it?", "agents": [name], "parts": [part]}
        )
        conversation = started["conversation_id"]
        await follow(model_mesh.channel(), conversation)
        found = (await rest.get(f"/conversations/{conversation}")).json()
    assert found["status"] == "completed", found
    task, *_, answer = found["messages"]
    assert task["parts"][1] == {"blob": part["blob"] | {"size_bytes": len(PICTURE)}}
    assert answer["content"] == answers[-1]
    assert answer["parts"][-1]["data"]["data"] == {"animal": "cat", "legs": 4}
    assert len(model_server.requests) == len(answers)
    for request in model_server.requests:
        sent = json.dumps(request["messages"])
        assert f"data:image/webp;base64,{base64.b64encode(PICTURE).decode()}" in sent
        assert request["response_format"]["json_schema"]["strict"] is True


async def _posted(rest: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await rest.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
