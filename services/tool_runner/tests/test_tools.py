"""The seven tools, through the service, on a real sandbox."""

from __future__ import annotations

import pytest
from agentmesh.conversation.v1 import message_pb2

from .conftest import Mesh

OK, ERROR = message_pb2.TOOL_OUTCOME_OK, message_pb2.TOOL_OUTCOME_ERROR


async def test_a_plan_is_made_followed_and_refused_when_circular(mesh: Mesh) -> None:
    tasks = [
        {"title": "review", "owner": "reviewer", "depends_on": [2]},
        {"title": "write", "owner": "developer"},
    ]
    made = await mesh.call("task_planner", goal="ship", tasks=tasks)
    assert made.result.output.splitlines() == [
        "Goal: ship",
        "Progress: 0 of 2 tasks done",
        "[ ] #2 write (developer)",
        "[ ] #1 review (reviewer) after #2",
        "Next: #2",
    ]
    done = await mesh.call("progress_tracker", action="update", task=2, status="done", note="ok")
    assert "Progress: 1 of 2 tasks done" in done.result.output
    assert "[x] #2 write (developer) - ok" in done.result.output
    assert done.result.output.endswith("Next: #1")
    circle = [{"title": "a", "depends_on": [2]}, {"title": "b", "depends_on": [1]}]
    refused = await mesh.call("task_planner", call_id="c2", goal="x", tasks=circle)
    assert refused.result.outcome == ERROR
    assert "wait for each other" in refused.result.output
    missing = await mesh.call("progress_tracker", call_id="c3", action="update", task=9, note="x")
    assert missing.result.outcome == ERROR
    assert "2 tasks" in missing.result.output


async def test_progress_without_a_plan_says_so(mesh: Mesh) -> None:
    called = await mesh.call("progress_tracker")
    assert called.result.outcome == ERROR
    assert "task_planner" in called.result.output


async def test_code_is_written_tested_mended_and_tested_again(mesh: Mesh) -> None:
    await mesh.call("code_writer", path="half.py", content="def half(n):\n    return n // 3\n")
    test = "from half import half\n\n\ndef test_half():\n    assert half(4) == 2\n"
    await mesh.call("code_writer", call_id="w2", path="tests/test_half.py", content=test)
    pytest_call = {"language": "shell", "code": "python3 -m pytest -q"}
    failed = await mesh.call("code_executor", call_id="e1", **pytest_call)
    assert failed.result.outcome == ERROR
    assert failed.result.output.startswith("exit code 1\n")
    assert "assert 1 == 2" in failed.result.output
    await mesh.call(
        "code_writer", call_id="w3", path="half.py", content="def half(n):\n    return n // 2\n"
    )
    passed = await mesh.call("code_executor", call_id="e2", **pytest_call)
    assert passed.result.outcome == OK
    assert "1 passed" in passed.result.output
    listed = await mesh.call("file_manager", action="list")
    assert listed.result.output.splitlines() == [
        "half.py (31 bytes)",
        "tests/",
        "tests/test_half.py (65 bytes)",
    ]


async def test_wrong_syntax_is_told_with_its_place(mesh: Mesh) -> None:
    called = await mesh.call("code_writer", path="broken.py", content="def f(:\n")
    assert called.result.outcome == ERROR
    assert "broken.py:1:" in called.result.output
    called = await mesh.call("code_writer", call_id="c2", path="x.json", content="{")
    assert called.result.outcome == ERROR


async def test_limits_are_told_in_words(mesh: Mesh) -> None:
    slow = await mesh.call("code_executor", code="import time; time.sleep(60)", timeout_seconds=0.3)
    assert slow.result.output == "ended: it took longer than 0.3 s and was killed"
    assert slow.result.detail["reason"] == "wall_timeout"
    large = await mesh.call(
        "code_executor", call_id="c2", code="x = []\nwhile 1: x.append(' ' * 9**7)"
    )
    assert "more memory than it may have" in large.result.output


async def test_long_output_keeps_beginning_and_end(mesh: Mesh) -> None:
    called = await mesh.call("code_executor", code="for n in range(20000): print('line', n)")
    assert called.result.truncated
    assert "line 0\n" in called.result.output
    assert called.result.output.endswith("line 19999")
    assert len(called.result.output) < 30_000
    assert called.output.count("\n") == 20_000


async def test_a_file_of_the_workspace_runs_with_arguments_and_input(mesh: Mesh) -> None:
    code = "import sys\nprint(sys.argv[1:], sys.stdin.read())\n"
    await mesh.call("code_writer", path="tool.py", content=code)
    called = await mesh.call("code_executor", path="tool.py", args=["a", "b c"], stdin="in")
    assert called.output == "['a', 'b c'] in\n"


async def test_files_are_written_moved_searched_and_deleted(mesh: Mesh) -> None:
    number = 0

    async def do(**arguments: str) -> message_pb2.ToolResultPart:
        nonlocal number
        number += 1
        return (await mesh.call("file_manager", call_id=f"c{number}", **arguments)).result

    await do(action="write", path="a/b.txt", content="one\n")
    await do(action="append", path="a/b.txt", content="two\n")
    assert (await do(action="read", path="a/b.txt")).output == "one\ntwo\n"
    await do(action="move", path="a/b.txt", destination="c/d.txt")
    assert (await do(action="search", pattern="two")).output == "c/d.txt:2: two"
    await do(action="delete", path="c")
    assert (await do(action="list")).output == "a/"
    gone = await do(action="read", path="c/d.txt")
    assert gone.outcome == ERROR
    assert "No such file" in gone.output


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "link/passwd", "file\0"])
async def test_no_path_leads_out(mesh: Mesh, path: str) -> None:
    await mesh.call("code_executor", language="shell", code="ln -s /etc link")
    for number, action in enumerate(("read", "write", "delete")):
        arguments = {"action": action, "path": path, "content": "x"}
        called = await mesh.call("file_manager", call_id=f"c{number}", **arguments)
        assert called.result.outcome == ERROR


async def test_analysis_and_scan_find_what_is_wrong(mesh: Mesh) -> None:
    clean = await mesh.call("code_analyzer")
    assert clean.result.output == "no findings"
    code = "import os, subprocess\nsubprocess.call('ls ' + input(), shell=True)\n"
    await mesh.call("code_writer", path="bad.py", content=code)
    found = await mesh.call("code_analyzer", call_id="c2")
    assert "bad.py:1:8: F401" in found.result.output
    hooks = "print('not json'); import os; os.environ['LOOKED'] = '1'; os._exit(3)\n"
    await mesh.call("code_writer", call_id="c4", path="sitecustomize.py", content=hooks)
    weak = await mesh.call("security_scanner")
    assert "bad.py:2: B602 high/" in weak.result.output
    refused = await mesh.call("security_scanner", call_id="c3", paths=["--help"])
    assert refused.result.outcome == ERROR
    assert "paths" in refused.result.output
