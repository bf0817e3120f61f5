"""The command on a mesh of real processes."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agentmesh_cli.rendering.terminal_text import strip_controls
from agentmesh_cli.supervisor import read_mesh_file

from clients.cli.tests.on_a_mesh import COMMAND, WITHOUT_MODEL, LocalMesh, Terminal

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    local = LocalMesh(tmp_path_factory.mktemp("mesh"))
    local("up", "--wait", "--any-port", "--timeout", "200", "--drain", "2")
    yield local
    local("down")
    assert read_mesh_file(local.data_dir) is None


@pytest.fixture(scope="module")
def told(mesh: LocalMesh) -> str:
    """What `run` prints of the main job."""
    return mesh("run")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)


def test_run_shows_the_conversation_with_real_output_of_the_sandbox(told: str) -> None:
    assert "write a function that parses ISO-8601 durations" in told
    for speaker in ("project_manager", "developer", "reviewer"):
        assert f"\n▌ {speaker}\n" in told
    failed, passed = (
        told.index(" failed, "),
        told.index(" passed in ", told.index(" failed, ") + 40),
    )
    assert failed < passed, "a first version fails its tests and is mended"
    assert "\ncompleted (" in told
    assert "\nsummary\n" in told
    assert "\x1b" not in told


def test_run_ends_with_usage_and_one_trace_over_four_services(told: str) -> None:
    total = next(line for line in told.splitlines() if line.startswith("total "))
    assert int(total.split()[1].replace(",", "")) > 0
    heading = next(line for line in told.splitlines() if line.startswith("trace "))
    for service in ("agent_runtime", "conversation_store", "gateway", "tool_runner"):
        assert service in heading


def test_what_was_said_can_be_read_again(mesh: LocalMesh, told: str) -> None:
    conversation = mesh.conversation()
    assert conversation in told
    assert conversation in mesh("list", "--status", "completed")
    spoken = told[told.index("▌ user") : told.index("completed (")]
    assert spoken in mesh("show", conversation)
    assert spoken in mesh("watch", conversation)
    later = mesh("watch", conversation, "--from", "6")
    assert "▌ user" not in later
    assert "completed (" in later


def test_json_is_for_programs(mesh: LocalMesh, told: str) -> None:
    conversation = mesh.conversation()
    shown = json.loads(mesh("show", conversation, "--json"))
    assert shown["status"] == "completed"
    assert shown["messages"][0]["role"] == "user"
    spans = json.loads(mesh("trace", conversation, "--json"))["spans"]
    assert {span["service"] for span in spans} >= {"agent_runtime", "gateway", "tool_runner"}
    agents = json.loads(mesh("agents", "--json"))
    assert {"project_manager", "developer", "reviewer"} <= {agent["id"] for agent in agents}
    assert json.loads(mesh("health", "--json"))["status"] == "healthy"


def test_an_agent_from_registration_to_deletion(mesh: LocalMesh, tmp_path: Path) -> None:
    instructions = tmp_path / "instructions.txt"
    instructions.write_text("You write.\nShort lines.")
    settings = ["--role", "writes poems", "--tools", "code_executor,oracle", "--max-tokens", "99"]
    settings += ["--system-message", f"@{instructions}", "--temperature", "0.5"]
    mesh("agents", "register", "poet", *settings)
    shown = mesh("agents", "show", "poet")
    for line in (
        r"version +1, of this tenant",
        r"role +writes poems",
        r"model +\(default\)",
        r" +temperature 0\.5, max_tokens 99",
        r"tools +code_executor, oracle \(missing\)",
        r"  You write\.\n  Short lines\.",
    ):
        assert re.search(f"^{line}$", shown, re.MULTILINE), line
    etag = json.loads(mesh("agents", "show", "poet", "--json"))["etag"]
    mesh("agents", "update", "poet", "--role", "writes more", "--unset", "max_tokens,tools",
         "--etag", etag)  # fmt: skip
    late = mesh.try_run("agents", "update", "poet", "--role", "x", "--etag", etag)
    assert (late.returncode, late.stdout) == (1, "")
    assert "changed since it was read" in late.stderr
    wrong = mesh.try_run("agents", "update", "poet", "--model", "no-such-model")
    assert wrong.returncode == 2
    assert "config.llm_config.model" in wrong.stderr
    updated = json.loads(mesh("agents", "show", "poet", "--json"))
    assert (updated["version"], updated["role"], updated["tools"]) == (2, "writes more", [])
    assert updated["llm_config"]["temperature"] == 0.5
    assert "max_tokens" not in updated["llm_config"]

    mesh("agents", "clone", "poet", "bard", "--version", "1", "--temperature", "1")
    bard = json.loads(mesh("agents", "show", "bard", "--json"))
    assert (bard["role"], bard["llm_config"]["temperature"]) == ("writes poems", 1)
    versions = mesh("agents", "versions", "poet")
    assert re.search(r"^2 \* .*writes more .*\n1 \* .*writes poems ", versions, re.MULTILINE)
    assert re.search(r"^poet +2 \* ", mesh("agents"), re.MULTILINE)
    mesh("agents", "delete", "bard")
    assert mesh("agents", "delete", "poet") == ""
    assert "poet" not in mesh("agents", "list")
    for command in (("show", "poet"), ("versions", "poet"), ("delete", "poet")):
        gone = mesh.try_run("agents", *command)
        assert (gone.returncode, gone.stdout) == (1, "")
        assert "agent 'poet' does not exist" in gone.stderr
    shipped = mesh.try_run("agents", "delete", "developer")
    assert shipped.returncode == 1
    assert "shipped with the mesh" in shipped.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["run", "x", "--agents", "nobody"], 2, "nobody"),
        (["run", "x", "--workflow", "no_such_thing"], 2, "no_such_thing"),
        (["run", "x", "--max-rounds", "100000"], 2, "max_rounds"),
        (["show", "conv_nothing"], 1, "conv_nothing"),
        (["watch", "conv_nothing"], 1, "conv_nothing"),
        (["cancel", "conv_nothing"], 1, "conv_nothing"),
    ],
)
def test_what_the_mesh_refuses_is_one_line(
    mesh: LocalMesh, arguments: list[str], status: int, complaint: str
) -> None:
    done = mesh.try_run(*arguments)
    assert done.returncode == status, done
    assert complaint in done.stderr
    assert done.stderr.startswith("agentmesh: ")
    assert done.stderr.count("\n") == 1


def test_a_message_after_the_end_starts_another_run(mesh: LocalMesh, told: str) -> None:
    conversation = mesh.conversation()
    mesh("send", conversation, "Please also accept weeks")
    mesh("watch", conversation)
    assert "Please also accept weeks" in mesh("show", conversation)


def test_a_conversation_is_steered(mesh: LocalMesh, told: str) -> None:
    fork = mesh("fork", mesh.conversation(), "--at", "3").strip()
    assert fork.startswith("conv_")
    assert mesh("update", fork, "--max-rounds", "1", "--max-tokens", "100000") == (
        "--max-rounds, --max-tokens changed\n"
    )
    mesh("send", fork, "Another way", "--strategy", "reject_if_running")
    mesh("watch", fork)
    shown = json.loads(mesh("show", fork, "--json"))
    assert shown["run"]["max_rounds"] == 1
    assert shown["run"]["budget"]["max_tokens"] == 100000


def test_an_image_comes_with_a_task_and_with_a_message(mesh: LocalMesh, tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2 << 20))
    mesh("run", "Describe the image", "--agents", "developer", "--max-rounds", "1",
         "--image", str(picture), "--image", str(picture))  # fmt: skip
    conversation = mesh.conversation()
    mesh("send", conversation, "And this one?", "--image", str(picture))
    messages = json.loads(mesh("show", conversation, "--json"))["messages"]
    for text, images in (("Describe the image", 2), ("And this one?", 1)):
        (said,) = [m for m in messages if m["content"] == text]
        blobs = [part["blob"] for part in said["parts"] if "blob" in part]
        assert [blob["media_type"] for blob in blobs] == ["image/png"] * images
        assert blobs[0]["filename"] == "cat.png"
        assert int(blobs[0]["size_bytes"]) == picture.stat().st_size


def test_all_conversations_are_watched_until_interrupted(
    mesh: LocalMesh, told: str, tmp_path: Path
) -> None:
    conversation = mesh.conversation()
    line = re.compile(rf"^{conversation} +\d+ message user: hello to all$", re.MULTILINE)
    shown = tmp_path / "shown"
    with (
        shown.open("w") as out,
        subprocess.Popen(
            [*COMMAND, "watch", "--all", "--data-dir", str(mesh.data_dir)],
            env=WITHOUT_MODEL,
            stdout=out,
        ) as watching,
    ):

        def appears() -> bool:
            mesh("send", conversation, "hello to all")
            return line.search(shown.read_text()) is not None

        wait_until(appears, "what is said is shown")
        watching.send_signal(signal.SIGINT)
    assert watching.returncode == 130


def test_a_second_up_is_refused_and_a_waiting_one_finds_the_mesh(mesh: LocalMesh) -> None:
    refused = mesh.try_run("up", "--any-port")
    assert refused.returncode == 1
    assert "already runs" in refused.stderr
    assert "ready" in mesh("up", "--wait")


def test_a_killed_service_comes_back_while_a_conversation_runs(mesh: LocalMesh) -> None:
    before = read_mesh_file(mesh.data_dir)
    assert before is not None
    with subprocess.Popen(
        [*COMMAND, "run", "--data-dir", str(mesh.data_dir)],
        env=WITHOUT_MODEL, stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        for line in running.stdout:
            if "code_executor" in line:
                break
        os.kill(before.pids["agent_runtime"], signal.SIGKILL)
        rest = running.stdout.read()
    assert running.returncode == 0, rest
    assert "completed (" in rest
    after = read_mesh_file(mesh.data_dir)
    assert after is not None
    assert after.pids["agent_runtime"] != before.pids["agent_runtime"]
    assert after.addresses == before.addresses


def test_interrupting_a_run_without_a_terminal_cancels_it(mesh: LocalMesh) -> None:
    with subprocess.Popen(
        [*COMMAND, "run", "--data-dir", str(mesh.data_dir)],
        env=WITHOUT_MODEL, stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("▌ project_manager"):
                break
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
    if "completed (" not in rest:  # it may have been quicker than the signal
        assert running.returncode == 1
        assert "cancelled (" in rest
        assert mesh.conversation() in mesh("list", "--status", "cancelled")


def test_a_terminal_sees_text_once_and_in_colour(mesh: LocalMesh) -> None:
    terminal = Terminal("run", "--data-dir", str(mesh.data_dir))
    terminal.read_until("")
    assert terminal.process.wait() == 0
    shown = strip_controls(terminal.shown)
    assert shown.count("I break the task into steps and record them.") == 1
    assert shown.count("5 failed, 13 passed") == 1
    assert "\x1b[1;36m" in terminal.shown or "\x1b[36m" in terminal.shown


def test_interrupting_at_a_terminal_asks_and_can_leave_it_running(mesh: LocalMesh) -> None:
    terminal = Terminal("run", "--data-dir", str(mesh.data_dir))
    terminal.read_until("conv_")
    terminal.process.send_signal(signal.SIGINT)
    terminal.read_until("[d]etach")
    terminal.type_line("d")
    terminal.read_until("agentmesh watch conv_")
    terminal.read_until("")
    assert terminal.process.wait() == 130
    assert "completed (" in mesh("watch", mesh.conversation())


def test_keys_of_the_local_store_open_the_mesh_and_close_it_to_others(
    tmp_path: Path,
) -> None:
    own = LocalMesh(tmp_path)
    own("up", "--wait", "--any-port", "--timeout", "200", "--drain", "1")
    try:
        secret = own("keys", "create", "--role", "admin", "--name", "boss").strip()
        assert secret.startswith("amk_")
        # The gateway asks again within ten seconds whether there are keys.
        wait_until(lambda: own.try_run("list").returncode == 1, "the mesh asks for a key")
        refused = own.try_run("list")
        assert "--api-key" in refused.stderr
        assert "no conversations" in own("list", "--api-key", secret)
        address = json.loads((tmp_path / "mesh.json").read_text())["addresses"]["gateway"]
        at_mesh = ("--address", address, "--api-key", secret)
        made = json.loads(own("keys", "create", "--role", "viewer", "--json", *at_mesh))
        assert "no conversations" in own("list", "--api-key", made["secret"])
        low = own.try_run("run", "hi", "--api-key", made["secret"])
        assert low.returncode == 1
        assert "role" in low.stderr
        as_boss = ("--api-key", secret)
        own("run", "hi", "--agents", "developer", "--max-rounds", "1", *as_boss)
        (shared,) = json.loads(own("list", "--json", *as_boss))
        name = shared["conversation_id"]
        with_viewers = ("--with-role", "viewer", *as_boss)
        assert "every viewer" in own("share", name, *with_viewers)
        assert name in own("list", "--json", "--api-key", made["secret"])
        assert json.loads(own("grants", name, "--json", *as_boss))["access"] == "read"
        own("unshare", name, *with_viewers)
        assert "no conversations" in own("list", "--api-key", made["secret"])
        assert "--with-role" in own.try_run("share", name, *as_boss).stderr
        limits = ("--scope", "agents:read", "--expires", "1d")
        limited = own("keys", "create", *limits, "--json", *at_mesh)
        limited_secret = json.loads(limited)["secret"]
        assert "writer" in own("agents", "--api-key", limited_secret)
        assert "scope" in own.try_run("list", "--api-key", limited_secret).stderr
        key_id = json.loads(limited)["key"]["key_id"]
        rotated = json.loads(own("keys", "rotate", key_id, "--json", *at_mesh))["secret"]
        at_store = own("keys", "rotate", key_id, "--overlap", "30m").strip()
        for good in (rotated, at_store):
            assert "writer" in own("agents", "--api-key", good)
        assert "boss" in own("keys", "list", *at_mesh)
        own("keys", "revoke", made["key"]["key_id"], *at_mesh)
        wait_until(
            lambda: own.try_run("list", "--api-key", made["secret"]).returncode == 1,
            "the revoked key is refused",
        )
        _audit_shows_who_did_what_and_is_whole(own, at_mesh)
    finally:
        own("down")


def test_run_with_a_mesh_of_its_own_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**WITHOUT_MODEL, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*COMMAND, "run", "--with-mesh"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "model         scripted" in done.stdout
    assert " failed, " in done.stdout
    assert "\ncompleted (" in done.stdout
    assert list(tmp_path.glob("agentmesh-*")) == []


def _audit_shows_who_did_what_and_is_whole(own: LocalMesh, at_mesh: tuple[str, ...]) -> None:
    heads = own.data_dir / "heads.json"
    wait_until(lambda: "not sealed" not in own("audit", "verify"), "all is sealed")
    assert "default: " in own("audit", "verify", "--heads", str(heads))
    assert json.loads(heads.read_text())["default"]["number"] > 0
    assert "CreateKey" in own("audit", "list")
    shown = json.loads(own("audit", "list", "--code", "OK", "--json", *at_mesh))
    assert {"CreateKey", "RotateKey"} <= {one["method"].rpartition("/")[2] for one in shown}
    assert "CreateKey" in own("audit", "list", *at_mesh)
    assert "where the store's database is" in own.try_run("audit", "verify", *at_mesh).stderr
    with sqlite3.connect(own.data_dir / "store.sqlite3", timeout=30) as database:
        database.execute("DROP TRIGGER audit_records_unchanged")
        database.execute("UPDATE audit_records SET principal = 'nobody' WHERE sequence = 1")
    broken = own("audit", "verify", "--heads", str(heads), status=1)
    assert "BROKEN: batch 1 does not match its seal" in broken
