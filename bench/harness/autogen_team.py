"""The same team as the mesh's, on AutoGen alone: in a process of its own that does nothing else."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import ChatAgent, TaskResult, Team
from autogen_agentchat.messages import ModelClientStreamingChunkEvent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

from bench.harness.model_server import MODEL


def autogen_team(
    base_url: str, instructions: Mapping[str, str], max_turns: int
) -> RoundRobinGroupChat:
    """Streaming assistants that speak in turns, as an AutoGen user would write them."""
    client = OpenAIChatCompletionClient(
        model=MODEL,
        base_url=base_url,
        api_key="bench",
        model_info=ModelInfo(
            vision=False,
            function_calling=True,
            json_output=True,
            family="unknown",
            structured_output=False,
        ),
    )
    agents: list[ChatAgent | Team] = [
        AssistantAgent(name, model_client=client, system_message=message, model_client_stream=True)
        for name, message in instructions.items()
    ]
    return RoundRobinGroupChat(agents, max_turns=max_turns)


@dataclass(frozen=True)
class Timing:
    """One `run_stream`: seconds until its last chunk of text and until its end, what came."""

    last_chunk: float
    end: float
    characters: int
    messages: int


async def time_one_run(
    base_url: str, instructions: Mapping[str, str], max_turns: int, task: str
) -> Timing:
    """Makes a team and lets it run."""
    began = time.perf_counter()
    last_chunk, characters, messages = 0.0, 0, 0
    async for item in autogen_team(base_url, instructions, max_turns).run_stream(task=task):
        if isinstance(item, ModelClientStreamingChunkEvent):
            characters += len(item.content)
            last_chunk = time.perf_counter() - began
        elif isinstance(item, TaskResult):
            messages = len(item.messages)
    return Timing(last_chunk, time.perf_counter() - began, characters, messages)


class AutogenProcess:
    """Runs that team again and again, in the process where AutoGen is alone."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self) -> Timing:
        """One run, timed inside the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"run\n")
        answer = await self._process.stdout.readline()
        assert answer, "AutoGen's process ended"
        return Timing(**json.loads(answer))


@asynccontextmanager
async def autogen_process(
    base_url: str, instructions: Mapping[str, str], max_turns: int, task: str
) -> AsyncIterator[AutogenProcess]:
    """The process, started and warm with imports."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.harness.autogen_team", "--base-url", base_url),
        *("--instructions", json.dumps(dict(instructions))),
        *("--max-turns", str(max_turns), "--task", task),
        cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield AutogenProcess(process)
    finally:
        process.kill()
        await process.wait()


async def serve(arguments: argparse.Namespace) -> None:
    """One run for every line of standard input."""
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        timing = await time_one_run(
            arguments.base_url,
            json.loads(arguments.instructions),
            arguments.max_turns,
            arguments.task,
        )
        print(json.dumps(vars(timing)), flush=True)


def main() -> None:
    """Serves what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--base-url", "--instructions", "--task"):
        parser.add_argument(name, required=True)
    parser.add_argument("--max-turns", type=int, required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
