"""Shows the services of a mesh: a live table on a terminal, lines elsewhere."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentmesh_cli.rendering.terminal_text import strip_controls
from agentmesh_cli.supervisor.service import ServiceState, ServiceStatus

_STYLES = {
    ServiceState.SERVING: "green",
    ServiceState.STARTING: "yellow",
    ServiceState.BACKING_OFF: "yellow",
    ServiceState.STOPPING: "cyan",
    ServiceState.STOPPED: "dim",
    ServiceState.FAILED: "bold red",
}


class MeshTable:
    """A table that is drawn again in place; `note` stands below it."""

    def __init__(self, console: Console) -> None:
        self._statuses: Sequence[ServiceStatus] = ()
        self._note = ""
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)

    def __enter__(self) -> "MeshTable":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, statuses: Sequence[ServiceStatus], changed: ServiceStatus | None = None) -> None:
        """Draws the services as they stand."""
        del changed
        self._statuses = statuses
        self._live.refresh()

    def note(self, text: str) -> None:
        """Replaces the line below the table."""
        self._note = text
        self._live.refresh()

    def log_line(self, service: str, line: str) -> None:
        """Prints a line of a service's log above the table."""
        self._live.console.print(_log_text(service, line), soft_wrap=True)

    def _render(self) -> Table:
        table = Table(box=None, pad_edge=False, caption=Text(self._note), caption_justify="left")
        for heading in ("service", "state", "address", "pid", "restarts", "for", ""):
            table.add_column(heading, no_wrap=heading != "", header_style="dim")
        for status in self._statuses:
            table.add_row(
                status.name,
                Text(status.state.value, style=_STYLES[status.state]),
                _addresses(status),
                str(status.pid or ""),
                str(status.restarts or ""),
                _elapsed(status.since),
                Text(strip_controls(status.detail), style="yellow"),
            )
        return table


class MeshLines:
    """A line for every change of state."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, ServiceState] = {}

    def __enter__(self) -> "MeshLines":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, statuses: Sequence[ServiceStatus], changed: ServiceStatus | None = None) -> None:
        """Prints `changed` if its state is another than the one printed last."""
        del statuses
        if changed is None or self._shown.get(changed.name) is changed.state:
            return
        self._shown[changed.name] = changed.state
        parts = [f"{changed.name:<19}{changed.state.value:<11}"]
        if changed.state is ServiceState.SERVING:
            parts += [_addresses(changed), f"pid {changed.pid}"]
        if changed.restarts:
            parts.append(f"restarts {changed.restarts}")
        if changed.detail:
            parts.append(strip_controls(changed.detail))
        self.note("  ".join(part for part in parts if part).rstrip())

    def note(self, text: str) -> None:
        """Prints a line."""
        self._console.print(Text(text), soft_wrap=True)

    def log_line(self, service: str, line: str) -> None:
        """Prints a line of a service's log."""
        self._console.print(_log_text(service, line), soft_wrap=True)


MeshView = MeshTable | MeshLines


def mesh_view(console: Console) -> MeshView:
    """The view that fits where the output goes."""
    return MeshTable(console) if console.is_terminal else MeshLines(console)


def _addresses(status: ServiceStatus) -> str:
    return "  ".join(part for part in (status.grpc_address, status.http_address) if part)


def _elapsed(since: float) -> str:
    seconds = int(time.monotonic() - since) if since else 0
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _log_text(service: str, line: str) -> Text:
    return Text.assemble((f"{service} | ", "dim"), strip_controls(line))
