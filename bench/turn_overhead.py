"""What the mesh adds to a conversation: 20 turns with a model that takes 100 ms.

Ours: from StartConversation until the run's end reaches a subscriber at the gateway, through four
processes, every step and turn committed to disk. Reference: `run_stream` of the same round-robin
team on AutoGen alone, in the process that calls it, nothing kept. Beside it stand the turns per
second of both with a model that answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence

import grpc
from agentmesh.conversation.v1 import conversation_pb2, stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2, conversation_service_pb2_grpc

from bench.harness.autogen_team import AutogenProcess, autogen_process
from bench.harness.mesh import model_environment, register_agents, running_mesh
from bench.harness.model_server import model_server
from bench.harness.rounds import Rounds, Target, interleave, report

TEAM = {
    "bench_writer": "You write.",
    "bench_editor": "You edit.",
    "bench_critic": "You criticise.",
}
TASK = "Write about gRPC."
TOKENS = 40
DELAY_SECONDS = 0.1
TARGET = Target("at most", 1.15)


async def through_the_mesh(channel: grpc.aio.Channel, turns: int) -> float:
    """Milliseconds of one conversation."""
    conversations: conversation_service_pb2_grpc.ConversationServiceAsyncStub = (
        conversation_service_pb2_grpc.ConversationServiceStub(channel)
    )
    began = time.perf_counter()
    started = await conversations.StartConversation(
        conversation_service_pb2.StartConversationRequest(
            agents=list(TEAM), task=TASK, max_rounds=turns
        )
    )
    stream = conversations.SubscribeConversation(
        conversation_service_pb2.SubscribeConversationRequest(
            conversation_id=started.conversation_id,
            until=stream_pb2.SUBSCRIBE_UNTIL_RUN_END,
        )
    )
    committed = 0
    ended = conversation_pb2.RUN_STATUS_UNSPECIFIED
    async for response in stream:
        for event in response.item.events.events:
            committed += event.HasField("turn_committed")
            if event.HasField("run_ended"):
                ended = event.run_ended.status
    took = (time.perf_counter() - began) * 1000
    assert ended == conversation_pb2.RUN_STATUS_COMPLETED, ended
    assert committed == turns, f"{committed} turns instead of {turns}"
    return took


async def on_autogen_alone(autogen: AutogenProcess, turns: int) -> float:
    """Milliseconds of one conversation."""
    timing = await autogen.run()
    assert timing.messages == turns + 1, timing
    return timing.end * 1000


async def take(rounds: int, turns: int, delay: float) -> Rounds:
    """Rounds with a model that takes `delay` seconds."""
    async with (
        model_server(TOKENS, delay) as base_url,
        running_mesh(model_environment(base_url)) as mesh,
        grpc.aio.insecure_channel(mesh.gateway_address) as channel,
        autogen_process(base_url, TEAM, turns, TASK) as autogen,
    ):
        await register_agents(channel, TEAM)
        return await interleave(
            lambda: through_the_mesh(channel, turns),
            lambda: on_autogen_alone(autogen, turns),
            rounds,
            "ms",
        )


async def measure(rounds: int, turns: int) -> None:
    """Takes the rounds and reports them."""
    taken = await take(rounds, turns, DELAY_SECONDS)
    at_once = await take(rounds, turns, 0.0)

    def per_second(samples: Sequence[float]) -> float:
        return round(1000 * turns / statistics.median(samples), 1)

    report(
        "turn_overhead",
        "ms",
        taken,
        reference_name=f"AutoGen alone in process, {turns} turns of a model that takes 100 ms",
        target=TARGET,
        distribution=True,
        more={
            "turns_per_second_at_0_ms": {
                "ours": per_second(at_once.ours),
                "reference": per_second(at_once.reference),
                "ratio": round(1 / at_once.ratio, 3),
            }
        },
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--turns", type=int, default=20)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.rounds, arguments.turns))


if __name__ == "__main__":
    main()
