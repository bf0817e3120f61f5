"""The shipped script on tools that really write and run; and what a script file may say."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from agentmesh_agent_runtime.definitions.shipped import load_definitions
from agentmesh_agent_runtime.definitions.specs import TeamSpec
from agentmesh_agent_runtime.definitions.yaml_source import DefinitionError
from agentmesh_agent_runtime.models.catalog import ModelCatalog, ModelDefaults
from agentmesh_agent_runtime.models.scripted.rules import Script
from agentmesh_agent_runtime.turns.driver import TurnDriver
from agentmesh_agent_runtime.turns.failures import EndReason
from agentmesh_agent_runtime.turns.ports import DeltaKind, Speaker, ToolOutput, ToolRequest

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    team,
)

TASK = "write a function that parses ISO-8601 durations, test it, review it"
SHIPPED = Path(str(files("agentmesh_agent_runtime.models.scripted"))) / "scripts"


class Workshop:
    """Stand-ins for the tools that write real files and run the real pytest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[str] = []
        self.replace_run: str | None = None
        self.done = 0

    def tools(self) -> dict[str, Any]:
        return {
            "task_planner": self._plan,
            "progress_tracker": self._track,
            "code_writer": self._write,
            "code_executor": self._run,
            "file_manager": self._write,
            "code_analyzer": self._fine,
            "security_scanner": self._fine,
        }

    async def _plan(self, request: ToolRequest) -> ToolOutput:
        plan = json.loads(request.arguments_json)
        return ToolOutput(f"Goal: {plan['goal']}\n{len(plan['tasks'])} tasks", is_error=False)

    async def _track(self, request: ToolRequest) -> ToolOutput:
        self.done += 1
        return ToolOutput(f"Progress: {self.done} of 3 tasks done", is_error=False)

    async def _write(self, request: ToolRequest) -> ToolOutput:
        arguments = json.loads(request.arguments_json)
        path = self.folder / arguments["path"]
        await asyncio.to_thread(path.write_text, arguments["content"])
        return ToolOutput(f"wrote {arguments['path']}; the syntax is right", is_error=False)

    async def _run(self, request: ToolRequest) -> ToolOutput:
        if self.replace_run is not None:
            return ToolOutput(self.replace_run, is_error=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        self.runs.append(output.decode())
        code = process.returncode
        return ToolOutput(f"exit code {code}\n{output.decode()}", is_error=code != 0)

    async def _fine(self, request: ToolRequest) -> ToolOutput:
        return ToolOutput("no findings", is_error=False)


def software_development(*, staged: bool) -> TeamSpec:
    shipped = load_definitions()
    spec = next(t for t in shipped.teams if t.id == "software_development")
    spec = spec.model_copy(update={"participants": shipped.agents})
    return spec if staged else spec.model_copy(update={"stages": ()})


def shipped_driver(run: MemoryRun) -> TurnDriver:
    script = Script.load(SHIPPED / "software_development.yaml")
    models = ModelCatalog(ModelDefaults(), script)
    return TurnDriver(models, run.schemas, worker_id="w", stall_seconds=30)


@pytest.mark.parametrize("staged", [True, False])
async def test_the_main_job_mends_the_code_because_of_real_output(
    tmp_path: Path, staged: bool
) -> None:
    workshop = Workshop(tmp_path)
    run = MemoryRun(software_development(staged=staged), [asked(TASK)], tools=workshop.tools())
    assert await take_all(run, shipped_driver(run)) is EndReason.TERMINATED
    assert len(workshop.runs) == 2
    assert "5 failed" in workshop.runs[0]
    assert "18 passed" in workshop.runs[1]
    said = "\n".join(text for _, text in run.texts())
    assert "5 tests fail, for example test_fractions_of_the_smallest_unit" in said
    assert "All 18 tests pass" in said
    assert "APPROVED" in said
    assert run.results[-1].summary.startswith("Done: durations.py")
    assert run.said[0].speaker is Speaker.SYSTEM
    assert "OPENAI_API_KEY is not set" in run.said[0].text
    speakers = [result.speaker for result in run.results]
    expected = ["project_manager", "developer", "reviewer", "project_manager"]
    assert speakers == (expected[:2] + expected[1:] if staged else expected)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("exit code 0\n18 passed in 0.01s", "All 18 tests pass"),
        ("no sandbox is ready; install bubblewrap", "nothing about the code is proven"),
        ("exit code 1\nNo module named pytest", "the sandbox has no pytest"),
        ("exit code 1\ntest_other.py::x\n3 failed, 1 passed", "3 tests still fail"),
    ],
)
async def test_another_output_of_the_sandbox_takes_another_path(
    tmp_path: Path, output: str, says: str
) -> None:
    workshop = Workshop(tmp_path)
    workshop.replace_run = output
    run = MemoryRun(software_development(staged=True), [asked(TASK)], tools=workshop.tools())
    assert await take_all(run, shipped_driver(run)) is EndReason.TERMINATED
    said = "\n".join(text for _, text in run.texts())
    assert says in said
    assert "I mend both" not in said
    assert ("APPROVED" in said) == says.startswith("All")


async def test_a_task_that_no_rule_knows_gets_an_honest_answer_once_from_each() -> None:
    run = MemoryRun(software_development(staged=True), [asked("Bake a cake")])
    run.tools = Workshop(Path()).tools()
    assert await take_all(run, shipped_driver(run)) is EndReason.TERMINATED
    texts = run.texts()
    assert all("scripted model" in text for _, text in texts)
    assert "no prepared reply" in texts[1][1]
    assert len(run.results) == 5
    assert run.tool_calls == []


async def test_the_script_streams_word_by_word(tmp_path: Path) -> None:
    run = MemoryRun(team(agent()), [asked("hello")], max_rounds=1)
    await take_all(run, driver(run))
    pieces = [text for _, _, kind, text in run.deltas if kind is DeltaKind.TEXT]
    assert len(pieces) > 20
    assert "".join(pieces) == run.said[-1].text


def test_a_broken_script_says_where_and_how_to_mend_it(tmp_path: Path) -> None:
    script = tmp_path / "script.yaml"
    script.write_text("rules:\n  - name: x\n    when: {agnet: y}\n    say: hi\n")
    with pytest.raises(DefinitionError, match=r"script.yaml:3: .*unknown field.*'agent'"):
        Script.load(script)
    script.write_text("rules:\n  - name: x\n    when: {task: '('}\n    say: hi\n")
    with pytest.raises(DefinitionError, match="regular expression"):
        Script.load(script)
    script.write_text("rules:\n  - name: x\n    say: '{{file:none.txt}}'\n")
    with pytest.raises(DefinitionError, match=r"none\.txt"):
        Script.load(script)
