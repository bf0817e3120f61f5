"""How a mesh shows itself, on a terminal and elsewhere."""

import io
import time
from dataclasses import replace

from agentmesh_cli.rendering.terminal_text import strip_controls
from agentmesh_cli.supervisor.service import ServiceState, ServiceStatus
from agentmesh_cli.supervisor.view import MeshLines, MeshTable, mesh_view
from rich.console import Console

SERVING = ServiceStatus(
    name="gateway",
    state=ServiceState.SERVING,
    pid=42,
    grpc_address="127.0.0.1:50051",
    http_address="http://127.0.0.1:8000",
    since=time.monotonic(),
)
BROKEN = ServiceStatus(
    name="tool_runner",
    state=ServiceState.BACKING_OFF,
    restarts=3,
    detail="killed by SIGKILL\x1b[2J; starts again in 0.8 s",
)


def test_a_terminal_gets_a_table_with_a_note_below_and_logs_above() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=140)
    view = mesh_view(console)
    assert isinstance(view, MeshTable)
    with view:
        view.show([SERVING, BROKEN])
        view.log_line("gateway", "a line\x1b]0;title\x07 of the log")
        view.note("Ctrl-C stops the mesh")
    shown = strip_controls(file.getvalue())
    last = shown[shown.rindex("service ") :]
    assert "gateway" in last
    assert "127.0.0.1:50051  http://127.0.0.1:8000" in last
    assert "killed by SIGKILL; starts again in 0.8 s" in last
    assert "Ctrl-C stops the mesh" in last
    assert "gateway | a line of the log" in shown
    assert "\x1b]0;" not in file.getvalue()
    assert "\x1b[2J" not in file.getvalue()


def test_elsewhere_there_is_a_line_for_every_change_of_state() -> None:
    file = io.StringIO()
    view = mesh_view(Console(file=file, width=40))
    assert isinstance(view, MeshLines)
    with view:
        view.show([SERVING], SERVING)
        view.show([SERVING], replace(SERVING, pid=43))
        view.show([SERVING, BROKEN], BROKEN)
    assert file.getvalue().splitlines() == [
        "gateway            serving      127.0.0.1:50051  http://127.0.0.1:8000  pid 42",
        "tool_runner        restarting   restarts 3  killed by SIGKILL; starts again in 0.8 s",
    ]
