"""Tools of packages in their workers: what they promise, and how they may fail."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agentmesh_tool_runner.sandbox.model import Limits, Output, Stream
from agentmesh_tool_runner.settings import ToolRunnerSettings
from agentmesh_tool_runner.tools.output import OutputCheck
from agentmesh_tool_runner.tools.packages.provider import PackageRules, PackageTools
from agentmesh_tool_runner.tools.provider import Toolbox
from agentmesh_tool_runner.tools.reply import Failure, ReplyOutcome, ToolReply
from agentmesh_tool_runner.tools.tool import ToolContext

from services.tool_runner.tests.conftest import until
from services.tool_runner.tests.processes import processes

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Bench:
    """Calls tools as the service does, without a store around them."""

    def __init__(self, toolbox: Toolbox) -> None:
        self.toolbox = toolbox
        self.printed: list[Output] = []

    def start(
        self, tool: str, seconds: float = 60.0, tenant: str = "acme", **arguments: Any
    ) -> asyncio.Task[ToolReply]:
        return asyncio.ensure_future(self.call(tool, seconds, tenant, **arguments))

    async def call(
        self, tool: str, seconds: float = 60.0, tenant: str = "acme", **arguments: Any
    ) -> ToolReply:
        return await self.call_raw(tool, json.dumps(arguments), seconds, tenant)

    async def call_raw(
        self, tool: str, arguments: str, seconds: float = 60.0, tenant: str = "acme"
    ) -> ToolReply:
        found = self.toolbox.find(tool)
        assert found is not None
        self.printed.clear()
        context = ToolContext(
            opened=None,
            python="",
            limits=Limits(wall_seconds=seconds, output_bytes=10_000),
            emit=self.printed.append,
            run=None,  # type: ignore[arg-type]  # nothing runs in a sandbox here
            tenant=tenant,
            agent="developer",
            tool_call_id="call_1",
        )
        reply = await found.call(context, arguments)
        return await OutputCheck().checked(found.spec, reply)

    def text(self, stream: Stream) -> bytes:
        return b"".join(piece.data for piece in self.printed if piece.stream is stream)


def rules(packages: str = "odd-tools", **values: Any) -> PackageRules:
    """As the settings have them."""
    return ToolRunnerSettings(tool_packages=packages, tool_worker_mib=512, **values).packages


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ODD_SECRET", "s3cret")
        patch.setenv("ODD_OPEN", "yes")
        allowed = rules("Odd.Tools, broken_tools", tool_worker_env="ODD_OPEN,ODD_ABSENT")
        toolbox = Toolbox([PackageTools(allowed, tmp_path_factory.mktemp("data"))])
        await toolbox.start()
        yield Bench(toolbox)
        await toolbox.close()


async def test_hints_are_schemas_and_docstrings_are_words(bench: Bench) -> None:
    specs = {spec.name: spec for spec in bench.toolbox.specs()}
    custom = specs["custom_tool"]
    assert custom.description == (
        "Custom tool for specialized functionality.\n\nReturns: Tool execution result"
    )
    assert custom.parameters["properties"]["query"] == {
        "type": "string",
        "title": "Query",
        "description": "Input query",
    }
    assert custom.parameters["required"] == ["query"]
    assert custom.parameters["additionalProperties"] is False
    assert custom.output_schema == {
        "type": "object",
        "properties": {"result": {"type": "string"}},
        "required": ["result"],
    }
    assert (custom.origin, custom.version) == ("odd-tools 1.2", "1.2")
    assert (custom.safe_to_repeat, custom.cacheable, custom.uses_workspace) == (False, False, False)
    add = specs["add"]
    assert (add.timeout_seconds, add.retries, add.concurrency) == (20, 1, 3)
    assert add.parameters["properties"]["schema"]["description"] == "S"
    assert add.output_schema is not None
    assert add.output_schema["required"] == ["total", "count"]
    assert specs["anything"].output_schema is None
    assert specs["note"].uses_workspace
    assert list(specs["note"].parameters["properties"]) == ["path", "text"]


async def test_what_cannot_be_offered_is_not(
    packages: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = PackageTools(rules("odd-tools,broken-tools,dying-tools,absent"), tmp_path)
    with caplog.at_level(logging.ERROR):
        await provider.start()
    offered = {tool.spec.name for tool in provider.tools()}
    await provider.close()
    for name, why in {
        "undeclared": "no function that is declared with @tool",
        "unhinted": "a: has no type hint",
        "wordless": "no docstring",
        "starred": "many: parameters need names",
        "handles": "its arguments are no JSON",
        "contradicts": "not cacheable",
        "wrong_context": "a Context",
        "broken": "its import failed: SystemExit: not today",
        "dying-tools": "exit code 9",
        "absent": "not installed",
    }.items():
        assert name not in offered
        assert any(name in line and why in line for line in caplog.messages), name


async def test_nothing_is_offered_that_is_not_allowed(packages: Path, tmp_path: Path) -> None:
    for allowed in ("", "broken-tools"):
        provider = PackageTools(rules(allowed), tmp_path)
        await provider.start()
        assert provider.tools() == []
        await provider.close()


async def test_functions_and_coroutines_answer_text_and_detail(bench: Bench) -> None:
    reply = await bench.call("custom_tool", query="q")
    assert (reply.outcome, reply.output) == (ReplyOutcome.OK, "Custom operation result: q None")
    assert reply.detail == {"result": "Custom operation result: q None"}
    reply = await bench.call("custom_tool", query="q", options={"a": 1})
    assert reply.output.endswith("{'a': 1}")
    reply = await bench.call("add", points=[{"x": 1}, {"x": 2, "y": 3}])
    assert reply.detail == {"total": {"x": 3, "y": 3}, "count": 2}
    assert json.loads(reply.output) == reply.detail


@pytest.mark.parametrize(
    ("arguments", "path", "words"),
    [
        ('{"points": [{"x": 1}, {"x": -1}]}', "points[1].x", "greater than or equal to 0"),
        ('{"points": [], "colour": 1}', "colour", "not permitted"),
        ("{}", "points", "required"),
        ("{not json", "", "Invalid JSON"),
        ("[1]", "", "object"),
    ],
)
async def test_wrong_arguments_are_told_with_their_path(
    bench: Bench, arguments: str, path: str, words: str
) -> None:
    reply = await bench.call_raw("add", arguments)
    assert reply.failure is Failure.ARGUMENTS
    [violation] = reply.detail["violations"]
    assert violation["path"] == path
    assert words in violation["message"]
    assert words in reply.output


async def test_what_is_printed_is_output_and_harms_nothing(bench: Bench) -> None:
    reply = await bench.call("shout", lines=3)
    assert (reply.outcome, reply.output) == (ReplyOutcome.OK, "null")
    assert bench.text(Stream.STDOUT) == b"garbage 0\ngarbage 1\ngarbage 2\n"
    assert bench.text(Stream.STDERR) == b"\xff\x00 raw\n"
    await bench.call("shout", lines=100_000)
    assert sum(len(piece.data) for piece in bench.printed) == 10_000
    assert (await bench.call("custom_tool", query="after")).outcome is ReplyOutcome.OK


async def test_output_between_calls_belongs_to_nobody(bench: Bench) -> None:
    first = await bench.call("spam", pause=0.05)
    assert first.outcome is ReplyOutcome.OK
    assert b"spam" in bench.text(Stream.STDOUT)
    for _ in range(3):
        assert (await bench.call("pid")).outcome is ReplyOutcome.OK


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("x", "raises failed: ValueError: a secret of x"),
        ("exit", "raises failed: SystemExit: 3"),
        ("words", "raises failed: Unspeakable"),
    ],
)
async def test_an_error_is_told_by_type_and_words_without_its_traceback(
    bench: Bench, kind: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await bench.call("raises", kind=kind)
    assert (reply.failure, reply.output) == (Failure.RAISED, text)
    assert "Traceback" not in reply.output + json.dumps(reply.detail)
    assert any("Traceback" in message for message in caplog.messages)


async def test_a_tool_says_itself_that_it_failed(bench: Bench) -> None:
    reply = await bench.call("raises", kind="sorry")
    assert (reply.outcome, reply.failure) == (ReplyOutcome.ERROR, None)
    assert reply.output == "there is no such book"


@pytest.mark.parametrize(
    ("how", "words"),
    [("shape", "at total.x"), ("kind", "promises an object"), ("object", "object is no JSON")],
)
async def test_a_tool_that_lies_about_its_result_is_told_so(
    bench: Bench, how: str, words: str
) -> None:
    reply = await bench.call("lies", how=how)
    assert (reply.outcome, reply.failure) == (ReplyOutcome.ERROR, Failure.OUTPUT)
    assert words in reply.output


async def test_results_without_a_promise_are_json_all_the_same(bench: Bench) -> None:
    assert (await bench.call("lies", how="object")).failure is Failure.OUTPUT
    assert (await bench.call("anything", what="nan")).detail == {"result": None}
    assert (await bench.call("anything", what="n")).detail == {"n": 3}


async def test_huge_results_are_cut(bench: Bench) -> None:
    reply = (await bench.call("huge", characters=5_000_000)).shortened()
    assert reply.outcome is ReplyOutcome.OK
    assert reply.truncated
    assert reply.output.startswith("ax")
    assert reply.output.endswith("xz")
    assert "characters left out" in reply.output
    assert len(reply.output) < 30_000
    structured = (await bench.call("huge", characters=200_000, structured=True)).shortened()
    assert (structured.outcome, structured.detail) == (ReplyOutcome.OK, {})
    assert structured.truncated
    deep = (await bench.call("anything", what="deep")).shortened()
    assert (deep.outcome, deep.detail, deep.truncated) == (ReplyOutcome.OK, {}, True)


@pytest.mark.parametrize("how", ["plain", "signals", "gil"])
async def test_a_tool_that_hangs_is_killed_with_all_its_processes(
    bench: Bench, how: str, tmp_path: Path
) -> None:
    marker = f"{tmp_path}-{how}"
    reply = await bench.call("hang", 1.0, how=how, marker=marker)
    assert (reply.failure, reply.output) == (
        Failure.TIMEOUT,
        "hang took longer than 1 s and was killed",
    )
    assert _carrying(marker) == []
    assert (await bench.call("custom_tool", query="after")).outcome is ReplyOutcome.OK


async def test_a_cancelled_call_leaves_no_process(bench: Bench, tmp_path: Path) -> None:
    call = bench.start("hang", how="signals", marker=str(tmp_path))
    await until(lambda: len(_carrying(str(tmp_path))) == 2, "both run")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: not _carrying(str(tmp_path)), "they are gone")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("segfault", "ended by SIGSEGV"),
        ("exit", "exit code 5"),
        ("line", "a frame of 4294967295 bytes"),
    ],
)
async def test_a_tool_that_takes_its_process_along_harms_no_other(
    bench: Bench, how: str, words: str
) -> None:
    other = bench.start("spam", pause=0.5)
    reply = await bench.call("dies", how=how)
    assert reply.failure is Failure.CRASHED
    assert words in reply.output
    assert (await other).outcome is ReplyOutcome.OK
    assert (await bench.call("custom_tool", query="after")).outcome is ReplyOutcome.OK


async def test_memory_is_bounded_and_a_swollen_worker_is_replaced(bench: Bench) -> None:
    reply = await bench.call("leak", mib=4000)
    assert reply.failure is Failure.RAISED
    assert "MemoryError" in reply.output
    first = (await bench.call("leak", mib=300)).detail["result"]
    await until(lambda: not _runs(first), "it is gone")


async def test_workers_see_nothing_of_the_services_environment(bench: Bench) -> None:
    seen = (await bench.call("environment")).detail
    assert "ODD_SECRET" not in seen
    assert seen["ODD_OPEN"] == "yes"
    assert set(seen) <= {
        *("PATH", "PYTHONPATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME", "TMPDIR"),
        *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "MALLOC_ARENA_MAX"),
        *("AGENTMESH_TOOL_WORKER", "ODD_OPEN"),
    }


async def test_a_worker_is_warm_and_replaced_after_its_calls(
    packages: Path, tmp_path: Path
) -> None:
    few = rules(tool_workers=1, tool_worker_calls=2)
    toolbox = Toolbox([PackageTools(few, tmp_path)])
    # A service that is larger than a worker may become: nothing of that is the worker's.
    ballast = b"x" * (320 << 20)
    await toolbox.start()
    bench = Bench(toolbox)
    pids = [(await bench.call("pid")).detail["result"] for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    del ballast
    await toolbox.close()
    assert not _runs(pids[3])


async def test_without_processes_a_tool_is_unavailable_and_nothing_was_done(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = rules(tool_workers=1, tool_worker_calls=1)
    toolbox = Toolbox([PackageTools(few, tmp_path)])
    await toolbox.start()
    bench = Bench(toolbox)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert (await bench.call("pid")).outcome is ReplyOutcome.OK
    reply = await bench.call("pid")
    assert (reply.failure, reply.nothing_done) == (Failure.UNAVAILABLE, True)
    await toolbox.close()


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _carrying(marker: str) -> list[int]:
    return processes(lambda words: marker.encode() in words)
