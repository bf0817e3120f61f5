"""Images in inputs: to every provider byte for byte, and in no checkpoint."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from agentmesh_agent_runtime.definitions.specs import EdgeSpec, GraphSpec, TeamKind
from agentmesh_agent_runtime.turns import checkpoints, images
from agentmesh_agent_runtime.turns.digests import model_request
from agentmesh_agent_runtime.turns.failures import EndReason, InvalidDefinition, LeaseLost
from agentmesh_agent_runtime.turns.grant import Input
from agentmesh_agent_runtime.turns.images import StoredImage
from agentmesh_agent_runtime.turns.outcome import utterances
from agentmesh_agent_runtime.turns.termination import Utterance
from autogen_core import Image
from autogen_core.models import LLMMessage, UserMessage
from PIL import Image as Picture

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
)
from services.agent_runtime.tests.test_profiles import profile
from services.agent_runtime.tests.wires import Wire
from tests.support.model_server import Fault, ModelServer, Reply, ToolCall

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 200
JPEG = b"\xff\xd8\xff" + bytes(range(255, -1, -1)) * 200
DONE = Reply("done TERMINATE")


def stored(data: bytes, media_type: str = "image/png", filename: str = "cat.png") -> StoredImage:
    return StoredImage(hashlib.sha256(data).hexdigest(), media_type, len(data), filename)


def showing(*data: bytes, sequence: int = 1, text: str = "Look:") -> Input:
    parts = [stored(each) for each in data]
    words = "\n".join([text, *(part.placeholder for part in parts)])
    return Input(sequence, "user", words, (text, *parts))


def run_of(*data: bytes, **fields: Any) -> MemoryRun:
    one = agent("alice", llm_config={"profile": "fast"}, **fields)
    kept = {stored(each).digest: each for each in data}
    return MemoryRun(team(one), [showing(*data)], images=kept)


def seen(wire: Wire, request: int = -1) -> list[tuple[str, bytes]]:
    """Media type and bytes of each image that reached the server."""
    body = wire.server.requests[request]
    found = []
    for message in body["messages"]:
        if wire.provider == "ollama":
            found += [("", base64.b64decode(data)) for data in message.get("images", ())]
            continue
        parts = message["content"] if isinstance(message["content"], list) else []
        for part in parts:
            if part["type"] == "image_url":
                head, data = part["image_url"]["url"].split(";base64,")
                found.append((head.removeprefix("data:"), base64.b64decode(data)))
            elif part["type"] == "image":
                source = part["source"]
                found.append((source["media_type"], base64.b64decode(source["data"])))
    return found


async def test_images_reach_every_provider_byte_for_byte(wire: Wire) -> None:
    wire.settings["vision"] = True
    wire.server.reply_with(DONE)
    run = run_of(PNG, JPEG)
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    expected = [("image/png", PNG), ("image/jpeg", JPEG)]
    if wire.provider == "ollama":
        expected = [("", data) for _, data in expected]
    assert seen(wire) == expected
    assert "Look:" in json.dumps(wire.server.requests[0])


async def test_a_model_that_cannot_see_is_told_what_there_was(wire: Wire) -> None:
    wire.settings["vision"] = False
    wire.server.reply_with(DONE)
    run = run_of(PNG)
    await take_all(run, wire.turns(run))
    assert seen(wire) == []
    assert f"[cat.png: image/png, {len(PNG)} bytes]" in json.dumps(wire.server.requests[0])


async def test_no_checkpoint_holds_the_bytes_and_every_turn_shows_them(wire: Wire) -> None:
    wire.settings["vision"] = True
    wire.server.reply_with([Reply("one"), Reply("two"), Reply("three"), DONE])
    members = [agent(name, llm_config={"profile": "fast"}) for name in ("alice", "bob")]
    run = MemoryRun(team(*members), [showing(PNG)], images={stored(PNG).digest: PNG})
    # Each turn in a fresh team: all that it knows comes from the checkpoint.
    assert await take_all(run, wire.turns(run)) is EndReason.TERMINATED
    assert [len(seen(wire, n)) for n in range(4)] == [1] * 4
    assert seen(wire)[0][1] == PNG
    state, _ = checkpoints.decode(run.chain)
    assert len(json.dumps(state.state)) < 10_000 < len(PNG)


def test_a_reference_survives_the_way_autogen_keeps_images() -> None:
    image = StoredImage("a" * 64, "image/webp", 7, "kątem/😀.webp")
    kept = Image.from_base64(image.as_picture().to_base64())
    assert StoredImage.of_picture(kept) == image
    assert StoredImage.of_picture(Image.from_pil(Picture.new("RGB", (200, 1), "red"))) is None
    assert StoredImage.of_picture(Image.from_pil(Picture.new("RGB", (20, 20), "red"))) is None


def test_another_image_is_another_request() -> None:
    def digest(*parts: str | Image) -> bytes:
        messages = [UserMessage(content=list(parts), source="user")]
        settings = agent("alice").llm_config
        return model_request(messages, (), "auto", None, settings)

    one, other = stored(PNG), stored(JPEG)
    assert digest("x", one.as_picture()) == digest("x", one.as_picture())
    reloaded = Image.from_base64(one.as_picture().to_base64())
    assert digest("x", one.as_picture()) == digest("x", reloaded)
    assert digest("x", one.as_picture()) != digest("x", other.as_picture())
    assert digest("x", one.as_picture()) != digest(one.as_picture(), "x")
    blue, red = (Image.from_pil(Picture.new("RGB", (2, 2), c)) for c in ("blue", "red"))
    assert digest(blue) != digest(red)


async def test_a_replay_shows_nothing_again(model_server: ModelServer) -> None:
    model_server.reply_with([Reply("one"), DONE])
    sees = profile(base_url=model_server.base_url, vision=True)
    run = run_of(PNG)
    run.die_after = "alice#1"
    turns = driver(run, profiles=[sees])
    with pytest.raises(LeaseLost):
        await take_turn(run, turns)
    await take_turn(run, turns)
    assert len(model_server.requests) == 1
    # The same turn with another image is not the same turn.
    run = run_of(PNG)
    run.die_after = "alice#1"
    with pytest.raises(LeaseLost):
        await take_turn(run, turns)
    run.inputs = [showing(JPEG)]
    with pytest.raises(Exception, match="asks for something else"):
        await take_turn(run, turns)


def test_a_message_with_images_is_heard_by_its_words() -> None:
    content = ["Look:", {"data": "…"}, "STOP"]
    message = {"type": "MultiModalMessage", "source": "user", "content": content}
    assert utterances([message]) == [Utterance("user", "Look:\nSTOP", "")]


async def given(*data: bytes | None, sees: bool = True, size: int | None = None) -> list[Any]:
    """What a model is given of these images; None is one that was removed."""
    kept = [stored(each or b"gone") for each in data]
    if size is not None:
        kept = [replace(each, size_bytes=size) for each in kept]
    there = {stored(each).digest: each for each in data if each}

    async def read(image: StoredImage) -> bytes | None:
        return there.get(image.digest)

    content: Any = ["x", *(each.as_picture() for each in kept)]
    messages: list[LLMMessage] = [UserMessage(content=content, source="user")]
    (shown,) = await images.shown(messages, sees=sees, read=read)
    return [shown.content] if isinstance(shown.content, str) else list(shown.content)


async def test_what_is_no_image_or_gone_or_too_large_is_told_in_words() -> None:
    begin = "x\n[cat.png: image/png,"
    assert await given(b"<html>") == [f"{begin} 6 bytes] (no image that can be shown)"]
    assert await given(None) == [f"{begin} 4 bytes] (removed)"]
    assert await given(PNG, size=images.LARGEST_IMAGE + 1) == [f"{begin} 20971521 bytes]"]
    text, image = await given(PNG)
    assert text == "x"
    assert isinstance(image, images.ShownImage)
    assert image.media_type == "image/png"


async def test_the_newest_images_are_shown_of_too_many() -> None:
    each = images.MOST_BYTES // 2 - 1
    _, first, second, third = await given(PNG, JPEG, b"GIF89a", size=each)
    assert first == f"[cat.png: image/png, {each} bytes]"
    assert isinstance(second, images.ShownImage)
    assert isinstance(third, images.ShownImage)
    assert third.media_type == "image/gif"


async def test_a_fallback_that_cannot_see_is_passed_over(model_server: ModelServer) -> None:
    blind, sees = (
        profile(name, base_url=model_server.base_url, model=name, vision=name == "sees")
        for name in ("blind", "sees")
    )
    first = profile(
        "fast", base_url=model_server.base_url, vision=True, fallbacks=("blind", "sees")
    )
    model_server.reply_with(DONE)
    model_server.fail_next(Fault(status=400))
    run = run_of(PNG)
    await take_all(run, driver(run, profiles=[first, blind, sees]))
    assert [body["model"] for body in model_server.requests] == ["small-model", "sees"]


async def test_a_fallback_that_cannot_call_tools_is_passed_over(model_server: ModelServer) -> None:
    plain = profile("plain", base_url=model_server.base_url, model="p", function_calling=False)
    first = profile("fast", base_url=model_server.base_url, fallbacks=("plain",))
    model_server.reply_with(DONE)
    model_server.fail_next(Fault(status=400), Fault(status=400))

    async def probe(_: object) -> Any:
        raise AssertionError

    one = agent("alice", llm_config={"profile": "fast"}, tools=("probe",))
    run = MemoryRun(team(one), [asked()], tools={"probe": probe})
    with pytest.raises(Exception, match="plain: its model cannot call tools"):
        await take_all(run, driver(run, profiles=[first, plain]))
    bare = MemoryRun(team(agent("alice", llm_config={"profile": "fast"})), [asked()])
    await take_all(bare, driver(bare, profiles=[first, plain]))
    assert [body["model"] for body in model_server.requests] == ["small-model"] * 2 + ["p"]


async def test_tools_need_a_model_that_calls_them(model_server: ModelServer) -> None:
    plain = profile(base_url=model_server.base_url, function_calling=False)

    async def probe(_: object) -> Any:
        raise AssertionError

    one = agent("alice", llm_config={"profile": "fast"}, tools=("probe",))
    run = MemoryRun(team(one), [asked()], tools={"probe": probe})
    with pytest.raises(InvalidDefinition, match="alice has tools"):
        await take_all(run, driver(run, profiles=[plain]))


@pytest.mark.parametrize("kind", [TeamKind.SELECTOR, TeamKind.GRAPH, TeamKind.MAGENTIC_ONE])
async def test_teams_of_every_kind_take_images(model_server: ModelServer, kind: TeamKind) -> None:
    def answer(body: dict[str, Any], number: int) -> Reply:
        asked_for = json.dumps(body["messages"])
        if kind is TeamKind.MAGENTIC_ONE and "is_request_satisfied" in asked_for:
            entry = {"reason": "so", "answer": True}
            names = ("is_request_satisfied", "is_in_loop", "is_progress_being_made")
            ledger = dict.fromkeys(names, entry)
            who: Any = {"reason": "so", "answer": "alice"}
            return Reply(
                json.dumps({**ledger, "instruction_or_question": who, "next_speaker": who})
            )
        return Reply("alice" if "select the next role" in asked_for.lower() else "done TERMINATE")

    model_server.reply_with(answer)
    fast = {"profile": "fast"}
    members = [agent(name, llm_config=fast) for name in ("alice", "bob")]
    settings: dict[TeamKind, dict[str, Any]] = {
        TeamKind.SELECTOR: {"selector": {"llm_config": fast}},
        TeamKind.GRAPH: {"graph": GraphSpec(edges=(EdgeSpec(source="alice", target="bob"),))},
        TeamKind.MAGENTIC_ONE: {"orchestrator": fast},
    }
    run = MemoryRun(
        team(*members, kind=kind, **settings[kind]),
        [showing(PNG)],
        images={stored(PNG).digest: PNG},
    )
    sees = profile(base_url=model_server.base_url, vision=True)
    assert await take_all(run, driver(run, profiles=[sees])) is EndReason.TERMINATED
    wire = Wire("openai", model_server)
    if kind is not TeamKind.MAGENTIC_ONE:
        assert any(seen(wire, n) for n in range(len(model_server.requests)))
    assert "agentmesh-image" not in json.dumps(model_server.requests)


async def test_a_swarm_is_given_back_with_an_image(model_server: ModelServer) -> None:
    model_server.reply_with(
        [Reply(tool_calls=(ToolCall("transfer_to_human", "{}"),)), Reply("I see it.")]
    )
    one = agent("alice", llm_config={"profile": "fast"}, handoffs=("human",))
    swarm = team(one, kind=TeamKind.SWARM, termination={"handoff_to": ("human",)})
    run = MemoryRun(swarm, [asked()], human_input=True, images={stored(PNG).digest: PNG})
    turns = driver(run, profiles=[profile(base_url=model_server.base_url, vision=True)])
    result, _ = await take_turn(run, turns)
    assert result.waits_for_input
    run.inputs.append(showing(PNG, sequence=9, text="Here."))
    await take_turn(run, turns)
    assert seen(Wire("openai", model_server)) == [("image/png", PNG)]
    assert "Here." in json.dumps(model_server.requests[-1])
