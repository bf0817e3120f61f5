"""agentmesh up, agentmesh down."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from agentmesh_cli import settings
from agentmesh_cli.errors import CliError
from agentmesh_cli.interrupts import Interrupts
from agentmesh_cli.options import DataDir
from agentmesh_cli.supervisor import Mesh, MeshFile, MeshPlan, plan_mesh, read_mesh_file
from agentmesh_cli.supervisor.lock import refuse_if_held
from agentmesh_cli.supervisor.logs import follow, last_lines, rotate
from agentmesh_cli.supervisor.plan import LOOPBACK
from agentmesh_cli.supervisor.ports import MeshPorts
from agentmesh_cli.supervisor.view import MeshView, mesh_view

_POLL_SECONDS = 0.05
_DOWN_MARGIN_SECONDS = 60.0

UP_EXAMPLES = """Examples:
  agentmesh up                          in this terminal, until Ctrl-C
  agentmesh up --wait                   in the background; returns when every service serves
  agentmesh up --any-port --data-dir d  a second mesh beside the first
  agentmesh up --follow-logs            with the logs of all services
"""
DOWN_EXAMPLES = """Examples:
  agentmesh down
  agentmesh down --data-dir d
"""


@Parameter(name="*")
@dataclass(frozen=True)
class UpOptions:
    """How `up` starts a mesh."""

    data_dir: DataDir = None
    any_port: Annotated[
        bool, Parameter(negative="", help="Take any free ports instead of the usual ones.")
    ] = False
    grpc_port: Annotated[
        int, Parameter(help="Port of the gateway; the other services take the three after it.")
    ] = MeshPorts().gateway
    rest_port: Annotated[int, Parameter(help="Port of REST and SSE.")] = MeshPorts().rest
    host: Annotated[
        str, Parameter(help="Address the gateway listens on; any but loopback requires API keys.")
    ] = LOOPBACK
    drain: Annotated[
        float, Parameter(help="Seconds that running work gets to finish when the mesh stops.")
    ] = 10.0


DEFAULT_UP = UpOptions()


def register(app: App, console: Console) -> None:
    """Adds the commands to `app`."""

    @app.command(help_epilogue=UP_EXAMPLES)
    async def up(
        *,
        options: UpOptions = DEFAULT_UP,
        follow_logs: Annotated[
            bool, Parameter(negative="", help="Print the logs of the services.")
        ] = False,
        wait: Annotated[
            bool,
            Parameter(negative="", help="Start in the background and return once all serve."),
        ] = False,
        timeout: Annotated[  # noqa: ASYNC109  # an option of the command, not of the coroutine
            float, Parameter(help="How many seconds --wait waits.")
        ] = 60.0,
    ) -> int:
        """Start a mesh on this machine and keep it running.

        Starts conversation_store, tool_runner, agent_runtime and gateway as processes, shows where
        they listen, and restarts any that dies. Ctrl-C drains and stops them.
        """
        data_dir = (options.data_dir or settings.default_data_dir()).expanduser().resolve()
        if wait:
            return await _up_in_background(console, data_dir, options, timeout)
        return await _up(console, data_dir, options, follow_logs)

    @app.command(help_epilogue=DOWN_EXAMPLES)
    async def down(*, data_dir: DataDir = None) -> int:
        """Stop the mesh that runs on a data directory of this machine."""
        directory = (data_dir or settings.default_data_dir()).expanduser().resolve()
        mesh = read_mesh_file(directory)
        if mesh is None:
            raise CliError(f"no mesh runs on {directory}")
        os.kill(mesh.supervisor_pid, signal.SIGTERM)
        deadline = time.monotonic() + _DOWN_MARGIN_SECONDS
        while read_mesh_file(directory) is not None:
            if time.monotonic() > deadline:
                raise CliError(f"the mesh (pid {mesh.supervisor_pid}) does not stop")
            await asyncio.sleep(_POLL_SECONDS)
        console.print("stopped")
        return 0


async def _up(console: Console, data_dir: Path, options: UpOptions, follow_logs: bool) -> int:
    refuse_if_held(data_dir)
    usual = MeshPorts.starting_at(options.grpc_port, options.rest_port)
    plan = plan_mesh(
        data_dir,
        settings.service_environment(),
        ports=None if options.any_port else usual,
        gateway_host=options.host,
        drain_seconds=options.drain,
    )
    view = mesh_view(console)
    mesh = Mesh(plan, lambda status: view.show(mesh.statuses, status))
    async with AsyncExitStack() as stack:
        interrupts = stack.enter_context(Interrupts(mesh.kill))
        stack.enter_context(view)
        stack.callback(view.note, "stopped")
        await stack.enter_async_context(mesh)
        if follow_logs:
            stack.push_async_callback(_cancel_all, _follow_logs(plan, view))
        view.note(f"data in {data_dir}; starting")
        await _serve(mesh, view, interrupts, data_dir)
        view.note("stopping; Ctrl-C again stops at once")
    return 0


async def _serve(mesh: Mesh, view: MeshView, interrupts: Interrupts, data_dir: Path) -> None:
    """Returns with the first signal; raises CliError when a service refuses to start."""
    interrupted = asyncio.create_task(interrupts.wait())
    ready = asyncio.create_task(mesh.wait_ready())
    failed = asyncio.create_task(mesh.wait_failed())
    try:
        await asyncio.wait({interrupted, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            view.note(f"ready; data in {data_dir}; Ctrl-C stops the mesh")
            await asyncio.wait({interrupted, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            raise CliError(f"{failed.result().name} ended: {failed.result().detail}")
    finally:
        await _cancel_all([interrupted, ready, failed])


def _follow_logs(plan: MeshPlan, view: MeshView) -> list["asyncio.Task[None]"]:
    def printer(name: str) -> asyncio.Task[None]:
        path = next(s.log_file for s in plan.services if s.name == name)
        return asyncio.create_task(follow(path, lambda line: view.log_line(name, line)))

    return [printer(service.name) for service in plan.services]


async def _cancel_all(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _up_in_background(
    console: Console, data_dir: Path, options: UpOptions, timeout_seconds: float
) -> int:
    """Starts `agentmesh up` in a session of its own and returns once its mesh is ready."""
    log = data_dir / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    rotate(log)
    supervisor = None
    if read_mesh_file(data_dir) is None:
        supervisor = _spawn_supervisor(data_dir, options, log)
    running = await _wait_ready(data_dir, supervisor, log, timeout_seconds)
    for name, address in running.addresses.items():
        console.print(Text(f"{name:<19}{address}"), soft_wrap=True)
    console.print(
        Text(f"ready; data in {data_dir}; stop with: agentmesh down --data-dir {data_dir}"),
        soft_wrap=True,
    )
    return 0


def _spawn_supervisor(data_dir: Path, options: UpOptions, log: Path) -> "subprocess.Popen[bytes]":
    command = [
        *(sys.executable, "-m", "agentmesh_cli", "up", "--data-dir", str(data_dir)),
        *("--grpc-port", str(options.grpc_port), "--rest-port", str(options.rest_port)),
        *("--host", options.host, "--drain", str(options.drain)),
        *(("--any-port",) if options.any_port else ()),
    ]
    with log.open("ab") as stream:
        return subprocess.Popen(  # noqa: S603  # this program itself
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


async def _wait_ready(
    data_dir: Path, supervisor: "subprocess.Popen[bytes] | None", log: Path, timeout_seconds: float
) -> MeshFile:
    """The mesh once it is ready; `supervisor` is None if it had been started before."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        mesh = read_mesh_file(data_dir)
        if mesh is not None and mesh.ready:
            return mesh
        if supervisor is not None and supervisor.poll() is not None:
            raise CliError("\n".join(last_lines(log, 5)) or "the mesh did not start")
        if time.monotonic() > deadline:
            if supervisor is not None:
                supervisor.terminate()
            lines = [f"the mesh was not ready after {timeout_seconds:g} s (logs: {log.parent})"]
            raise CliError("\n  ".join(lines + last_lines(log, 6)))
        await asyncio.sleep(_POLL_SECONDS)
