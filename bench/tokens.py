"""How fast tokens get from a model server to somebody who watches.

The model sends one reply of thousands of tokens as fast as it is read. Ours: from StartConversation
until all of its text has reached a subscriber at the gateway, through four processes: as deltas, or
in the message itself where the last of them were overtaken by it.
Reference: `run_stream` of the same agent on AutoGen alone, read in the process that calls it, from
its call until all of the text has come as chunks. A token is one piece of the model's stream.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import grpc
from agentmesh.conversation.v1 import stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2, conversation_service_pb2_grpc

from bench.harness.autogen_team import AutogenProcess, autogen_process
from bench.harness.mesh import model_environment, register_agents, running_mesh
from bench.harness.model_server import model_server, reply_text
from bench.harness.rounds import Target, interleave, report

TEAM = {"bench_speaker": "You speak."}
TASK = "Speak at length."
TARGET = Target("at least", 20.0)


async def through_the_mesh(channel: grpc.aio.Channel, tokens: int) -> float:
    """Tokens per second of one reply."""
    conversations: conversation_service_pb2_grpc.ConversationServiceAsyncStub = (
        conversation_service_pb2_grpc.ConversationServiceStub(channel)
    )
    began = time.perf_counter()
    started = await conversations.StartConversation(
        conversation_service_pb2.StartConversationRequest(
            agents=list(TEAM), task=TASK, max_rounds=1
        )
    )
    stream = conversations.SubscribeConversation(
        conversation_service_pb2.SubscribeConversationRequest(
            conversation_id=started.conversation_id,
            until=stream_pb2.SUBSCRIBE_UNTIL_RUN_END,
        )
    )
    expected = reply_text(tokens)
    came: list[str] = []
    length, took = 0, 0.0
    async for response in stream:
        delta = response.item.delta
        if delta.kind == stream_pb2.DELTA_KIND_TEXT:
            came.append(delta.text)
            length += len(delta.text)
        whole = length >= len(expected) or any(
            event.message.content == expected for event in response.item.events.events
        )
        if whole and not took:
            took = time.perf_counter() - began
    assert took, "the text did not come"
    if "".join(came) != expected:
        print(f"{length} of {len(expected)} characters came as deltas, the rest with the message")
    assert length > len(expected) / 2, "what came live is not worth the name"
    return tokens / took


async def on_autogen_alone(autogen: AutogenProcess, tokens: int) -> float:
    """Tokens per second of one reply."""
    timing = await autogen.run()
    assert timing.characters == len(reply_text(tokens)), timing
    return tokens / timing.last_chunk


async def measure(rounds: int, tokens: int) -> None:
    """Takes the rounds and reports them."""
    async with (
        model_server(tokens) as base_url,
        running_mesh(model_environment(base_url)) as mesh,
        grpc.aio.insecure_channel(mesh.gateway_address) as channel,
        autogen_process(base_url, TEAM, 1, TASK) as autogen,
    ):
        await register_agents(channel, TEAM)
        taken = await interleave(
            lambda: through_the_mesh(channel, tokens),
            lambda: on_autogen_alone(autogen, tokens),
            rounds,
            "tokens/s",
        )
    report(
        "tokens",
        "tokens/s",
        taken,
        reference_name=f"AutoGen run_stream in process, {tokens} tokens",
        target=TARGET,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=5000)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.rounds, arguments.tokens))


if __name__ == "__main__":
    main()
