"""The supervisor over real processes."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from agentmesh_cli.errors import CliError
from agentmesh_cli.supervisor import (
    Mesh,
    MeshPlan,
    ServiceState,
    ServiceStatus,
    plan_mesh,
    read_mesh_file,
)
from agentmesh_cli.supervisor.backoff import Backoff, BackoffPolicy
from agentmesh_cli.supervisor.ports import MeshPorts, free_ports

Planner = Callable[..., MeshPlan]
QUICK = BackoffPolicy(first=0.05, ceiling=0.4)
SUPERVISE = Path(__file__).with_name("supervise.py")


async def until(condition: Callable[[], object], what: str) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"never happened: {what}")


def alive(pid: int) -> bool:
    """True unless the process is gone or a zombie that nobody has reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def journal(data_dir: Path, word: str) -> list[str]:
    path = data_dir / "journal"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[1] for line in lines if line.split()[0] == word]


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


async def test_a_killed_service_starts_again_on_its_port(
    tmp_path: Path, small_plan: Planner
) -> None:
    async with Mesh(small_plan(tmp_path, {"store": "", "gateway": ""}), policy=QUICK) as mesh:
        await mesh.wait_ready(20)
        before = mesh.statuses[0]
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        await until(
            lambda: (
                mesh.statuses[0].restarts == 1 and mesh.statuses[0].state is ServiceState.SERVING
            ),
            "the service serves again",
        )
        after = mesh.statuses[0]
        assert after.pid != before.pid
        assert after.grpc_address == before.grpc_address
        assert listens(after.grpc_address)
        assert mesh.statuses[1].restarts == 0
        found = read_mesh_file(tmp_path)
        assert found is not None
        assert found.pids["store"] == after.pid


async def test_a_crashing_service_is_started_ever_more_rarely(
    tmp_path: Path, small_plan: Planner
) -> None:
    seen: list[ServiceStatus] = []
    async with Mesh(small_plan(tmp_path, {"broken": "crash"}), seen.append, QUICK):
        await until(lambda: len(journal(tmp_path, "start")) >= 4, "four starts")
    waits = [s.detail for s in seen if s.state is ServiceState.BACKING_OFF]
    assert [w.rpartition("in ")[2] for w in waits[:3]] == ["0.1 s", "0.1 s", "0.2 s"]
    assert all(w.startswith("ended with status 7: no disk; starts again in ") for w in waits)


def test_backoff_grows_to_its_ceiling_and_forgets_after_a_stable_life() -> None:
    backoff = Backoff(BackoffPolicy(first=0.2, factor=2, ceiling=3, stable_after=5))
    assert [backoff.next_delay(0) for _ in range(6)] == [0.2, 0.4, 0.8, 1.6, 3, 3]
    assert backoff.next_delay(5) == 0.2
    assert backoff.next_delay(4.9) == 0.4


async def test_services_stop_callers_first_and_nothing_stays(
    tmp_path: Path, small_plan: Planner
) -> None:
    plan = small_plan(tmp_path, {"store": "", "runtime": "", "gateway": ""})
    async with Mesh(plan) as mesh:
        await mesh.wait_ready(20)
        pids = [status.pid for status in mesh.statuses]
    assert journal(tmp_path, "stop") == ["gateway", "runtime", "store"]
    assert not any(alive(pid) for pid in pids if pid)
    assert not (tmp_path / "mesh.json").exists()


async def test_a_service_that_does_not_stop_is_killed(tmp_path: Path, small_plan: Planner) -> None:
    plan = small_plan(tmp_path, {"stubborn": "stubborn"}, drain_seconds=-1.5)
    async with Mesh(plan) as mesh:
        await mesh.wait_ready(20)
        pid = mesh.statuses[0].pid
    assert pid
    assert not alive(pid)
    assert journal(tmp_path, "stop") == []


async def test_what_a_dead_service_left_behind_is_killed(
    tmp_path: Path, small_plan: Planner
) -> None:
    async with Mesh(small_plan(tmp_path, {"parent": "grandchild"}), policy=QUICK) as mesh:
        await mesh.wait_ready(20)
        orphan = int((tmp_path / "journal.grandchild").read_text())
        assert mesh.statuses[0].pid
        os.kill(mesh.statuses[0].pid, signal.SIGKILL)
        await until(lambda: not alive(orphan), "the orphan is gone")


async def test_refused_settings_are_reported_and_not_tried_again(
    tmp_path: Path, small_plan: Planner
) -> None:
    plan = small_plan(tmp_path, {"store": "", "gateway": "misconfigured"})
    async with Mesh(plan) as mesh:
        with pytest.raises(CliError, match="AGENTMESH_GRPC_PORT: must be a number"):
            await mesh.wait_ready(20)
        assert (await mesh.wait_failed()).name == "gateway"
    assert journal(tmp_path, "start").count("gateway") == 1


async def test_a_start_that_takes_too_long_names_the_service_and_its_log(
    tmp_path: Path, small_plan: Planner
) -> None:
    async with Mesh(small_plan(tmp_path, {"store": "", "runtime": "crash"})) as mesh:
        with pytest.raises(CliError, match=r"(?s)^runtime did not serve within .*log: .*runtime"):
            await mesh.wait_ready(1.5)


async def test_a_second_mesh_on_the_same_data_is_refused(
    tmp_path: Path, small_plan: Planner
) -> None:
    async with Mesh(small_plan(tmp_path, {"store": ""})):
        second = Mesh(small_plan(tmp_path, {"store": ""}))
        with pytest.raises(CliError, match=f"already runs on .*pid {os.getpid()}.*agentmesh down"):
            second.start()
        assert read_mesh_file(tmp_path) is not None
    async with Mesh(small_plan(tmp_path, {"store": ""})) as third:
        await third.wait_ready(20)


async def start_supervisor(tmp_path: Path) -> tuple[asyncio.subprocess.Process, list[int]]:
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, str(SUPERVISE), str(tmp_path), "store=", "gateway=",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert supervisor.stdout is not None
    assert await supervisor.stdout.readline() == b"ready\n"
    found = read_mesh_file(tmp_path)
    assert found is not None
    assert found.supervisor_pid == supervisor.pid
    assert found.ready
    return supervisor, list(found.pids.values())


async def test_sigterm_to_the_supervisor_stops_everything_in_order(tmp_path: Path) -> None:
    supervisor, pids = await start_supervisor(tmp_path)
    supervisor.terminate()
    assert await supervisor.wait() == 0
    assert journal(tmp_path, "stop") == ["gateway", "store"]
    assert not any(map(alive, pids))


async def test_sigkill_of_the_supervisor_kills_the_services(tmp_path: Path) -> None:
    supervisor, pids = await start_supervisor(tmp_path)
    supervisor.kill()
    await supervisor.wait()
    await until(lambda: not any(map(alive, pids)), "the services are gone")
    assert journal(tmp_path, "stop") == []
    # The file is still there, and nobody takes it for a mesh that runs.
    assert (tmp_path / "mesh.json").exists()
    assert read_mesh_file(tmp_path) is None


def test_a_plan_connects_the_services_and_keeps_its_secret_off_command_lines(
    tmp_path: Path,
) -> None:
    plan = plan_mesh(tmp_path, {"OPENAI_API_KEY": "k"}, ports=free_ports("127.0.0.1"))
    by_name = {service.name: service.environment for service in plan.services}
    assert list(by_name) == ["conversation_store", "tool_runner", "agent_runtime", "gateway"]
    port = by_name["conversation_store"]["AGENTMESH_GRPC_PORT"]
    assert by_name["gateway"]["AGENTMESH_STORE_ADDRESS"] == f"127.0.0.1:{port}"
    assert by_name["agent_runtime"]["OPENAI_API_KEY"] == "k"
    secrets = {environment["AGENTMESH_INTERNAL_SECRET"] for environment in by_name.values()}
    assert len(secrets) == 1
    secret = secrets.pop()
    assert len(secret) >= 32
    assert not any(secret in word for service in plan.services for word in service.command)


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = MeshPorts(port, port, port, port, free_ports("127.0.0.1").rest)
        with pytest.raises(CliError, match=rf"{port}.* in use; use --any-port"):
            plan_mesh(tmp_path, {}, ports=ports)


def test_free_ports_lie_outside_the_range_of_outgoing_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports("127.0.0.1")
    assert max(ports.gateway, ports.rest, ports.tool_runner) < first
