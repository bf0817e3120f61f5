"""What a turn writes to keep the team's state, late in a conversation against early in it.

A conversation of three agents through four processes, replies of about 1 KB, every text another.
The sizes are those of the rows that lie in the store afterwards. A state is written whole now and
then, so one turn says nothing: each side is the mean over the turns of the second half of the
conversation up to there, which has its share of whole ones. Ours: around the last turn. Reference:
around turn 10.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from agentmesh.catalog.v1 import agent_pb2
from agentmesh.conversation.v1 import conversation_pb2, stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2, conversation_service_pb2_grpc
from agentmesh_agent_runtime.turns import checkpoints
from agentmesh_agent_runtime.turns.grant import SavedCheckpoint

from bench.harness.mesh import model_environment, register_agents, running_mesh
from bench.harness.model_server import model_server
from bench.harness.rounds import Rounds, Target, report

TEAM = {
    "bench_writer": "You write.",
    "bench_editor": "You edit.",
    "bench_critic": "You criticise.",
}
WORDS_PER_REPLY = 170
EARLY = 10
TARGET = Target("at most", 2.0)


@dataclass(frozen=True)
class Turn:
    """What the store keeps of one turn."""

    number: int
    saved: SavedCheckpoint

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.saved.data)


async def converse(channel: grpc.aio.Channel, turns: int) -> None:
    """One conversation from its start until its run's end."""
    conversations: conversation_service_pb2_grpc.ConversationServiceAsyncStub = (
        conversation_service_pb2_grpc.ConversationServiceStub(channel)
    )
    started = await conversations.StartConversation(
        conversation_service_pb2.StartConversationRequest(
            agents=list(TEAM), task="Write about gRPC.", max_rounds=turns
        )
    )
    stream = conversations.SubscribeConversation(
        conversation_service_pb2.SubscribeConversationRequest(
            conversation_id=started.conversation_id, until=stream_pb2.SUBSCRIBE_UNTIL_RUN_END
        )
    )
    committed = 0
    async for response in stream:
        for event in response.item.events.events:
            committed += event.HasField("turn_committed")
            if event.HasField("turn_committed") and committed % 100 == 0:
                print(f"{committed} turns", flush=True)
            if event.HasField("run_ended"):
                ended = event.run_ended
                assert ended.status == conversation_pb2.RUN_STATUS_COMPLETED, ended
    assert committed == turns, f"{committed} turns instead of {turns}"


def kept_in(data_dir: Path) -> list[Turn]:
    """What lies in the store, by turn."""
    database = sqlite3.connect(f"file:{data_dir / 'store.sqlite3'}?mode=ro", uri=True)
    try:
        rows = database.execute(
            "SELECT turn, checkpoint_id, data, encoding, base_id FROM checkpoints ORDER BY turn"
        ).fetchall()
    finally:
        database.close()
    return [Turn(number, SavedCheckpoint(*saved)) for number, *saved in rows]


def chain_of(turns: Sequence[Turn], last: int) -> list[SavedCheckpoint]:
    """The checkpoints that lead to turn `last`, oldest first."""
    chain = [turns[last - 1].saved]
    while chain[0].base_checkpoint_id:
        chain.insert(0, turns[last - len(chain) - 1].saved)
        assert chain[1].base_checkpoint_id == chain[0].checkpoint_id
    return chain


def whole_size(turns: Sequence[Turn], last: int) -> int:
    """What the state after turn `last` takes by itself."""
    checkpoint, _ = checkpoints.decode(chain_of(turns, last))
    return len(checkpoints.encode(checkpoint).data)


def second_half(turns: Sequence[Turn], last: int) -> float:
    """Mean bytes per turn of the second half of the turns up to `last`."""
    return statistics.fmean(turn.size for turn in turns[last // 2 : last])


def describe(turns: Sequence[Turn]) -> None:
    """What the figure is made of."""
    whole = [turn for turn in turns if turn.saved.encoding == checkpoints.WHOLE]
    for last in (EARLY, 100, len(turns)):
        window = [turn.size for turn in turns[max(0, last - 10) : last]]
        print(
            f"turn {last}: {second_half(turns, last):,.0f} bytes per turn in the second half up to "
            f"it; median of the last ten {statistics.median(window):,.0f}; "
            f"a whole state {whole_size(turns, last):,}",
            flush=True,
        )
    written = sum(turn.size for turn in turns)
    samples = range(1, len(turns) + 1, max(1, len(turns) // 20))
    alternative = statistics.fmean(whole_size(turns, n) for n in samples) * len(turns)
    print(
        f"written in all: {written:,} bytes, {len(whole)} of {len(turns)} states whole "
        f"(turns {', '.join(str(turn.number) for turn in whole)}); "
        f"with a whole state each turn: about {alternative:,.0f}",
        flush=True,
    )


async def measure(count: int) -> None:
    """Holds the conversation and reports."""
    context = agent_pb2.ContextPolicy(buffered=agent_pb2.BufferedContext(size=20))
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as folder:
        data_dir = Path(folder)
        async with model_server(WORDS_PER_REPLY, varied=True) as base_url:
            environment = model_environment(base_url)
            async with (
                running_mesh(environment, data_dir) as mesh,
                grpc.aio.insecure_channel(mesh.gateway_address) as channel,
            ):
                await register_agents(channel, TEAM, context)
                await converse(channel, count)
        turns = kept_in(data_dir)
    assert [turn.number for turn in turns] == list(range(1, count + 1))
    describe(turns)
    report(
        "checkpoint_growth",
        "bytes per turn",
        Rounds([second_half(turns, count)], [second_half(turns, EARLY)]),
        reference_name=f"the same conversation around turn {EARLY}, ours around turn {count}",
        target=TARGET,
    )


def main() -> None:
    """Measures what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=1000)
    asyncio.run(measure(parser.parse_args().turns))


if __name__ == "__main__":
    main()
