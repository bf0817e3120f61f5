"""Bad command lines: one clear line, status 2, nothing started."""

import re
from pathlib import Path

import pytest
from agentmesh_cli.app import main
from agentmesh_cli.failures import describe_failure
from agentmesh_client import AgentMeshError, Violation

CLOSED = "127.0.0.1:9"  # discard: nobody listens there


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", ""], "TASK is empty"),
        (["run", "x", "--max-rounds", "-3"], "--max-rounds -3 is too small; it must be 1 or more"),
        (["run", "x", "--max-rounds", "many"], '--max-rounds: unable to convert "many" into int'),
        (["run", "x", "--frobnicate"], "--frobnicate"),
        (["frobnicate"], 'Unknown command "frobnicate"'),
        (["watch"], "CONVERSATION or --all is needed"),
        (["watch", "conv_1", "--all"], "CONVERSATION or --all is needed"),
        (["watch", "conv_1", "--from", "0"], "--from 0 is too small"),
        (["send", "conv_1", " "], "TEXT is empty"),
        (["send", "conv_1", "x", "--strategy", "now"], "--strategy"),
        (["fork", "conv_1", "--at", "-1"], "--at -1 is too small"),
        (["update", "conv_1"], "nothing to change; name one of --max-rounds"),
        (["update", "conv_1", "--max-tokens", "0"], "--max-tokens 0 is too small"),
        (["send", "conv_1", "x", "--image", "no-such.png"], "--image no-such.png: No such file"),
        (["run", "x", "--image", __file__], "is no image that models can be shown"),
        (["list", "--status", "runing"], "--status runing is unknown; use running, waiting"),
        (["list", "--limit", "0"], "--limit 0 is out of range; choose 1 to 500"),
        (["agents", "frobnicate"], "frobnicate"),
        (["agents", "show"], "AGENT"),
        (["agents", "clone", "a"], "NEW_AGENT"),
        (["agents", "update", "a"], "nothing to change; name settings, or --unset some"),
        (["agents", "update", "a", "--unset", "colour"], "--unset colour: no such setting; use"),
        (["agents", "update", "a", "--temperature", "hot"], '"hot" into float'),
        (["agents", "register", "a", "--human-input-mode", "often"], "--human-input-mode"),
        (["agents", "update", "a", "--system-message", "@no-such"], "@no-such: No such file"),
        (["keys", "create", "--role", "king"], "--role"),
        (["keys", "create", "--expires", "soon"], "--expires soon is not a duration"),
        (["keys", "rotate", "key_1", "--overlap", "0d"], "--overlap 0d is not a duration"),
        (["keys", "create", "--tenant", "t", "--address", CLOSED], "--tenant cannot be chosen"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("agentmesh: ")
    assert complaint in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "command",
    [
        *("list", "show conv_1", "watch conv_1", "watch --all", "agents", "agents list"),
        *("agents show a", "agents delete a", "agents update a --role x", "health", "run"),
    ],
)
def test_without_a_gateway_the_line_says_what_to_do(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--address", CLOSED]) == 1
    assert capsys.readouterr().err == (
        f"agentmesh: no gateway answers at {CLOSED}; "
        "start a mesh with `agentmesh up`, or name one with --address\n"
    )


def test_down_without_a_mesh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--data-dir", str(tmp_path)]) == 1
    assert "no mesh runs on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        *("", "up", "down", "run", "watch", "chat", "list", "show", "send", "cancel", "trace"),
        *("pause", "resume", "fork", "update", "share", "unshare", "grants", "agents", "approvals"),
        *("health", "keys", "audit"),
    ],
)
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"agentmesh {command}".rstrip() in out.partition("Examples:")[2]
    assert not re.search(r"\[default: (False|None|\"\"|)\]", out)


def test_a_rejected_field_is_named_and_is_wrong_usage() -> None:
    error = AgentMeshError(
        "INVALID_ARGUMENT", "invalid request", violations=(Violation("task", "must not be empty"),)
    )
    failure = describe_failure(error, "here")
    assert str(failure) == "task: must not be empty"
    assert failure.exit_status == 2


def test_remedies_come_from_the_mesh_or_from_the_reason() -> None:
    sandbox = AgentMeshError(
        "FAILED_PRECONDITION", "no sandbox", reason="SANDBOX_UNAVAILABLE",
        metadata={"remedy": "apt-get install bubblewrap"},
    )  # fmt: skip
    assert str(describe_failure(sandbox, "")) == "no sandbox; apt-get install bubblewrap"
    key = AgentMeshError("UNAUTHENTICATED", "no key", reason="CREDENTIALS_MISSING")
    assert "AGENTMESH_API_KEY" in str(describe_failure(key, ""))
    busy = AgentMeshError("RESOURCE_EXHAUSTED", "busy", reason="OVERLOADED", retry_after=3.0)
    assert str(describe_failure(busy, "")) == "busy; try again in 3 s"
