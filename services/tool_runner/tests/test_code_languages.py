"""Languages as callers meet them: by Execute, by the tool of agents, and in the capabilities."""

from __future__ import annotations

import grpc
import pytest
from agentmesh.conversation.v1 import message_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.languages import Language, catalog
from meshkit.testkit import raises_rich

from .conftest import Mesh

C_PROGRAM = '#include <stdio.h>\nint main(int n, char **v) { printf("hi %s\\n", v[1]); return n; }'


async def test_agents_run_programs_of_other_languages(mesh: Mesh) -> None:
    ran = await mesh.call("code_executor", "1", language="c", code=C_PROGRAM, args=["you"])
    assert ran.result.output.splitlines()[:2] == ["exit code 2", "hi you"]
    wrong = await mesh.call("code_executor", "2", language="c", code="int main() { return x; }")
    assert wrong.result.output.startswith("ended: it does not compile\nstderr:\n")
    assert "undeclared" in wrong.result.output
    assert wrong.result.outcome == message_pb2.TOOL_OUTCOME_ERROR
    unknown = await mesh.call("code_executor", "3", language="cobol", code="x")
    assert "language" in unknown.result.output


async def test_a_language_that_is_not_installed(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said with what to install; the other languages go on."""
    nowhere = catalog.Tool("rustc", ("no-such-rustc",), "rustc")
    monkeypatch.setitem(catalog.TOOLS, Language.RUST, (nowhere,))
    with raises_rich(grpc.StatusCode.FAILED_PRECONDITION, "LANGUAGE_NOT_INSTALLED") as refused:
        await mesh.execute("fn main() {}", language=pb.EXECUTION_LANGUAGE_RUST)
    assert refused.error is not None
    assert refused.error.metadata["language"] == "rust"
    assert refused.error.metadata["remedy"] == "install rustc where sandboxes see it"
    told = await mesh.call("code_executor", language="rust", code="fn main() {}")
    assert told.result.output.startswith("language: rust is not installed in the sandboxes; ")
    answer = await mesh.stub.GetCapabilities(pb.GetCapabilitiesRequest(), metadata=mesh.user())
    info = {each.language: each for each in answer.language_info}
    assert len(info) == len(Language)
    rust = info[pb.EXECUTION_LANGUAGE_RUST]
    assert (rust.installed, rust.version) == (False, "")
    assert rust.remedy == "install rustc where sandboxes see it"
    assert pb.EXECUTION_LANGUAGE_RUST not in answer.languages
    python = info[pb.EXECUTION_LANGUAGE_PYTHON]
    assert python.installed
    assert python.version.startswith("3.")
