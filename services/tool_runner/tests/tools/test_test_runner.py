"""test_runner: what it tells of tests, and of code under test that would tell something else."""

from __future__ import annotations

import json
from typing import Any

from agentmesh.conversation.v1 import message_pb2
from agentmesh_tool_runner.tools.testing.run_tests import digest
from google.protobuf.json_format import MessageToDict

from services.tool_runner.tests.conftest import Mesh

OK, ERROR = message_pb2.TOOL_OUTCOME_OK, message_pb2.TOOL_OUTCOME_ERROR

ALL_KINDS = """
import pytest

def test_good(): print("shown")
def test_bad(): assert 1 == 2, "numbers"
@pytest.mark.skip(reason="not now")
def test_skipped(): pass
@pytest.mark.xfail
def test_expected(): assert False
@pytest.mark.xfail
def test_unexpected(): pass
@pytest.fixture
def broken(): raise RuntimeError("fixture")
def test_error(broken): pass
@pytest.fixture
def untidy():
    yield
    raise RuntimeError("teardown")
def test_untidy(untidy): pass
@pytest.mark.parametrize("n", [1, 2])
def test_many(n): assert n == 1
"""


async def run(mesh: Mesh, files: dict[str, str], **arguments: Any) -> message_pb2.ToolResultPart:
    for path, content in files.items():
        call_id = f"write {len(mesh.store.steps)}"
        await mesh.call("code_writer", call_id=call_id, path=path, content=content)
    return (await mesh.call("test_runner", **arguments)).result


async def test_every_outcome_is_told(mesh: Mesh) -> None:
    part = await run(mesh, {"tests/test_all.py": ALL_KINDS, "test_broken.py": "import nothing\n"})
    assert part.outcome == OK, part.output
    # A file that cannot be imported keeps the others from running.
    detail = MessageToDict(part.detail)
    assert detail["totals"] | {"uncollected": 1, "not_run": 9} == detail["totals"]
    assert "uncollected: test_broken.py" in part.output
    assert "No module named 'nothing'" in part.output
    part = (await mesh.call("test_runner", call_id="again", paths=["tests"])).result
    detail = MessageToDict(part.detail)
    assert detail["totals"] == {
        "passed": 2,
        "failed": 2,
        "error": 2,
        "skipped": 1,
        "xfailed": 1,
        "xpassed": 1,
        "not_run": 0,
        "uncollected": 0,
    }
    assert (detail["success"], detail["exit_code"], detail["doubts"]) == (False, 1, [])
    tests = {test["id"].partition("::")[2]: test for test in detail["tests"]}
    assert tests["test_bad"]["outcome"] == "failed"
    assert "numbers" in tests["test_bad"]["message"]
    assert tests["test_many[2]"]["outcome"] == "failed"
    assert "teardown" in tests["test_untidy"]["message"]
    assert "not now" in tests["test_skipped"]["message"]
    assert all(test["seconds"] >= 0 for test in tests.values())
    assert part.output.startswith("2 passed, 2 failed, 2 error, 1 skipped, 1 xfailed, 1 xpassed")
    assert "failed: tests/test_all.py::test_bad" in part.output


async def test_a_selection_of_tests_runs(mesh: Mesh) -> None:
    files = {"test_a.py": ALL_KINDS}
    part = await run(mesh, files, keyword="good or many", stop_after=1)
    assert MessageToDict(part.detail)["totals"]["passed"] == 2
    called = await mesh.call("test_runner", call_id="c2", paths=["test_a.py::test_good"])
    assert called.result.detail["success"] is True
    assert called.result.output == "1 passed"
    assert "1 passed" in called.output
    for number, paths in enumerate((["/etc"], ["--version"], ["../x", ""])):
        refused = await mesh.call("test_runner", call_id=f"r{number}", paths=paths)
        assert refused.result.failure == message_pb2.TOOL_FAILURE_ARGUMENTS
    shadow = {"agentmesh_report.py": "raise SystemExit('a shadow')", "pytest.ini": "[pytest]"}
    shadowed = await run(mesh, shadow, call_id="shadowed", paths=["test_a.py::test_good"])
    assert shadowed.output == "1 passed"
    missing = await mesh.call("test_runner", call_id="c3", paths=["nowhere.py"])
    assert missing.result.outcome == ERROR
    assert "nowhere.py" in missing.result.output


async def test_no_tests_and_no_end_are_errors(mesh: Mesh) -> None:
    none = await mesh.call("test_runner")
    assert none.result.outcome == ERROR
    assert none.result.output.startswith("there are no tests")
    slow = "import time\ndef test_slow(): time.sleep(600)\n"
    part = await run(mesh, {"test_slow.py": slow}, call_id="c2", timeout_seconds=2)
    assert part.failure == message_pb2.TOOL_FAILURE_TIMEOUT
    assert "longer than 2 s" in part.output
    loud = "def test_loud():\n    for _ in range(300): print('x' * 9999)\n    assert 0\n"
    part = await run(mesh, {"test_slow.py": loud}, call_id="c3")
    assert part.outcome == OK, part.output
    assert MessageToDict(part.detail)["totals"]["failed"] == 1


OTHERWISE = (
    ("import os\ndef pytest_runtest_setup(item): os._exit(0)\n", "before it said so"),
    (
        "import pytest\n@pytest.hookimpl(hookwrapper=True)\n"
        "def pytest_runtest_makereport(item, call):\n"
        "    outcome = yield\n    outcome.get_result().outcome = 'passed'\n",
        "outcomes are decided by conftest.py: pytest_runtest_makereport",
    ),
    (
        "import pytest\n@pytest.hookimpl(trylast=True)\n"
        "def pytest_sessionfinish(session): session.exitstatus = 0\n",
        "the exit code is 0 although tests failed",
    ),
    (
        "import agentmesh_report as a\n"
        "a._tell(kind='phase', id='test_x.py::test_bad', when='call', outcome='passed',\n"
        "        seconds=0, expected_failure=False, message='')\n",
        "call was told twice",
    ),
    (
        "import agentmesh_report as a\n"
        "a._tell(kind='finished', status=0, deciding=[], present=True)\n",
        "after the end",
    ),
    ("import os\nimport agentmesh_report as a\nos.write(a._descriptor, b'[]\\n{\\n')\n", "does"),
    (
        "def pytest_configure(config):\n"
        "    config.pluginmanager.unregister(name='agentmesh_report')\n",
        "before it said so",
    ),
    (
        "def pytest_collection_modifyitems(items): items.clear()\n",
        "there are no tests",
    ),
)


async def test_code_that_would_have_another_result_is_told_of(mesh: Mesh) -> None:
    bad = "def test_bad(): assert False\n"
    for conftest, words in OTHERWISE:
        call_id = f"call {len(mesh.store.steps)}"
        part = await run(mesh, {"conftest.py": conftest, "test_x.py": bad}, call_id=call_id)
        assert words in part.output, conftest
        assert part.detail["success"] is words.startswith("outcomes are decided"), conftest


async def test_no_test_reaches_the_process_that_writes_the_report(mesh: Mesh) -> None:
    code = (
        "import os, glob\n"
        "def test_reach():\n"
        "    parent = os.getppid()\n"
        "    for name in ('mem', 'fd/2', 'environ'):\n"
        "        try:\n"
        "            open(f'/proc/{parent}/{name}', 'rb').close()\n"
        "        except PermissionError:\n"
        "            continue\n"
        "        assert False, name\n"
    )
    part = await run(mesh, {"test_reach.py": code})
    assert part.output == "1 passed"


def told(**line: Any) -> bytes:
    return json.dumps(line).encode()


def test_a_test_without_an_end_is_an_error() -> None:
    setup = {"id": "t", "when": "setup", "outcome": "passed", "seconds": 0.1}
    lines = [
        told(kind="collected", ids=["t"], count=1),
        told(kind="phase", expected_failure=False, message="", **setup),
    ]
    report = digest(lines, -9)
    assert report["tests"][0]["outcome"] == "error"
    assert report["doubts"] == ["pytest ended with exit code -9 before it said so"]
    unknown = told(kind="phase", **{**setup, "id": "u"}, expected_failure=False, message="")
    assert "u was told of and never collected" in digest([*lines, unknown], 1)["doubts"]
    assert len(digest([b"x"] * 5, 0)["doubts"]) == 2
