"""Deciding on tool calls and answering questions with the command and with the Python client."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from agentmesh_client import AgentMesh, FailedPreconditionError, NotFoundError

from tests.support.conversations import follow, run_end
from tests.support.mesh import Mesh
from tests.support.model_server import ModelServer, Reply, ToolCall


class Command:
    """`agentmesh approvals` at a mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self._address = mesh.address("gateway")

    async def __call__(self, *arguments: str, status: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "agentmesh_cli", "approvals", *arguments, "--address", self._address),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == status, output.decode()
        return output.decode()

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self(*arguments, "--json"))


def writes(name: str) -> ToolCall:
    return ToolCall("code_writer", json.dumps({"path": f"{name}.txt", "content": "x"}), name)


async def test_the_command_and_the_client_decide(
    model_mesh: Mesh, model_server: ModelServer, tmp_path: Path
) -> None:
    question = ToolCall("ask_human", '{"question": "Which \\u001b[31mcolour?"}', "asked")
    calls = (writes("one"), writes("two"), writes("three"), question)
    model_server.reply_with([Reply("I shall write.", tool_calls=calls), Reply("done TERMINATE")])
    command = Command(model_mesh)
    async with AgentMesh(model_mesh.address("gateway")) as client:
        await client.agents.register(
            "decided_on",
            model="gpt-4",
            tools=["code_writer", "ask_human"],
            approvals=[{"tools": ["code_writer"], "expires_after": "600s", "role": "operator"}],
        )
        started = await client.start("write", agents=["decided_on"], human_input=True)
        async with asyncio.timeout(60):
            while len(found := [a async for a in _pending(client, started.id)]) < 4:
                await asyncio.sleep(0.05)
        ids = {json.loads(a.arguments_json)["path"][:-4]: a.id for a in found if a.tool}
        (words,) = [approval.id for approval in found if not approval.tool]

        listed = await command("list", "--conversation", started.id)
        assert all(approval.id in listed for approval in found)
        shown = await command("show", ids["one"])
        assert "I shall write." in shown
        assert '"path": "one.txt"' in shown
        assert "\x1b[31m" not in await command("show", words)
        document = await command.json("show", ids["one"], "--messages", "1")
        assert [e["message"]["content"] for e in document["context"]] == ["I shall write."]

        assert "approved" in await command("approve", ids["one"], "--comment", "go on")
        arguments = tmp_path / "arguments.json"
        arguments.write_text('{"path": "other.txt", "content": "y"}')
        assert (await command.json("edit", ids["two"], f"@{arguments}"))["status"] == "edited"
        assert "JSON" in await command("edit", ids["three"], "{", status=2)
        rejected = await client.approvals.reject(ids["three"], reason="too many")
        assert (rejected.status, rejected.comment) == ("rejected", "too many")
        assert "answered" in await command("answer", words, "blue")

        events = await follow(model_mesh.channel(), started.id)
        assert run_end(events).detail
        told = [m["content"] for m in model_server.requests[-1]["messages"] if m["role"] == "tool"]
        assert "go on" in told[0]
        assert "wrote one.txt" in told[0]
        assert "wrote other.txt" in told[1]
        assert "too many" in told[2]
        assert told[3] == "blue"

        with pytest.raises(FailedPreconditionError):
            await client.approvals.approve(ids["three"])
        with pytest.raises(NotFoundError):
            await client.approvals.get("appr_nobody")
        assert (await client.approvals.get(ids["one"], context_messages=0)).context == ()
        assert "nothing waits" in await command("list", "--conversation", started.id)
        assert ids["two"] in await command("--all", "--conversation", started.id)


def _pending(client: AgentMesh, conversation_id: str) -> Any:
    return client.approvals.list(conversation_id=conversation_id)
