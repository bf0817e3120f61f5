"""agentmesh run: start a conversation and watch it to its end."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from agentmesh_cli import settings
from agentmesh_cli.errors import EXIT_FAILED, EXIT_OK, UsageError
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.images import LocalImages
from agentmesh_cli.interrupts import Interrupts
from agentmesh_cli.options import NO_CONNECTION, Connection, Images
from agentmesh_cli.rendering.page import Page
from agentmesh_cli.rendering.terminal_text import one_line
from agentmesh_cli.session import OnInterrupt, Session
from agentmesh_cli.supervisor import Mesh, ServiceState, ServiceStatus, plan_mesh
from agentmesh_cli.supervisor.plan import SERVICE_NAMES

DEFAULT_TASK = "write a function that parses ISO-8601 durations, test it, review it"
DEFAULT_AGENTS = ("project_manager", "developer", "reviewer")
DEFAULT_WORKFLOW = "software_development"

_START_TIMEOUT_SECONDS = 90.0
# Nothing is left to drain once the conversation has ended.
_OWN_MESH_DRAIN_SECONDS = 2.0

RUN_EXAMPLES = f"""Examples:
  agentmesh run --with-mesh
  agentmesh run "compare three sorting algorithms" --agents developer,reviewer
  agentmesh run "build a parser" --workflow {DEFAULT_WORKFLOW} --max-rounds 12

Exit status: 0 only if the run completed, 1 if it failed or was cancelled,
130 if you left with Ctrl-C.
"""


@Parameter(name="*")
@dataclass(frozen=True)
class ConversationOptions:
    """What to start."""

    agents: Annotated[
        str, Parameter(help="Agents in speaking order, comma-separated: developer,reviewer.")
    ] = ""
    workflow: Annotated[str, Parameter(help="A team or workflow, shipped or registered.")] = ""
    max_rounds: Annotated[
        int | None, Parameter(help="Maximum number of turns [default: the team's].")
    ] = None
    image: Images = None

    def team(self) -> tuple[list[str], str]:
        """Agents and workflow; both have defaults if neither is named."""
        agents = [name.strip() for name in self.agents.split(",") if name.strip()]
        if not agents and not self.workflow:
            return list(DEFAULT_AGENTS), DEFAULT_WORKFLOW
        return agents, self.workflow

    def check(self, task: str) -> None:
        """Raises UsageError for what no mesh would take, before anything is started for it."""
        if not task.strip():
            raise UsageError("TASK is empty", remedy="say what the agents are to do")
        if self.max_rounds is not None and self.max_rounds < 1:
            raise UsageError(
                f"--max-rounds {self.max_rounds} is too small", remedy="it must be 1 or more"
            )


DEFAULT_CONVERSATION = ConversationOptions()


def register(app: App, console: Console) -> None:
    """Adds the command to `app`."""

    @app.command(help_epilogue=RUN_EXAMPLES)
    async def run(
        task: str = DEFAULT_TASK,
        /,
        *,
        options: ConversationOptions = DEFAULT_CONVERSATION,
        with_mesh: Annotated[
            bool,
            Parameter(
                negative="",
                help="Start a mesh for this conversation alone and stop it afterwards. Its data is "
                "deleted unless --data-dir is given or the run fails.",
            ),
        ] = False,
        on_interrupt: Annotated[
            OnInterrupt,
            Parameter(help="What Ctrl-C does; without a terminal to ask on, it cancels."),
        ] = OnInterrupt.ASK,
        full: Annotated[
            bool, Parameter(negative="", help="Show tool output and the trace in full.")
        ] = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Start a conversation and stream it: messages, tool output, summary, usage, trace.

        Without --agents and --workflow, the team software_development runs with its agents
        project_manager, developer and reviewer.

        Parameters
        ----------
        task
            What the agents are to do.
        """
        options.check(task)
        page = Page(console)
        start = _Start(task, options, await LocalImages.read(options.image))
        with Interrupts() as interrupts:
            if with_mesh:
                return await _run_with_mesh(page, interrupts, connection.data_dir, start, full)
            async with Gateway.open(connection) as gateway:
                session = Session(page, gateway, interrupts, on_interrupt, full)
                return await start(session, await gateway.default_model())


@dataclass(frozen=True)
class _Start:
    """Starts the conversation and watches it to its end."""

    task: str
    options: ConversationOptions
    images: LocalImages

    async def __call__(self, session: Session, model: str) -> int:
        agents, workflow = self.options.team()
        mesh = session.gateway.mesh
        started = await mesh.start(
            self.task,
            agents=agents,
            workflow=workflow,
            max_rounds=self.options.max_rounds,
            attachments=await self.images.upload(mesh),
        )
        page = session.page
        if model:
            note = settings.SCRIPTED_NOTE if model == settings.SCRIPTED else one_line(model, 120)
            page.line(("model         ", "dim"), note)
        note = f"  (workflow {started.workflow})" if started.workflow else ""
        page.line(("agents        ", "dim"), one_line(", ".join(started.agents) + note, 400))
        page.line(("conversation  ", "dim"), started.id)
        return await session.watch(started.id)


async def _run_with_mesh(
    page: Page, interrupts: Interrupts, data_dir: Path | None, start: _Start, full: bool
) -> int:
    """The conversation on a mesh of its own. What it leaves in a temporary folder is kept only if
    something went wrong."""
    folder = data_dir or Path(tempfile.mkdtemp(prefix="agentmesh-"))
    status = EXIT_FAILED
    try:
        async with _own_mesh(page, interrupts, folder) as mesh:
            connection = Connection(address=mesh.gateway_address)
            async with Gateway.open(connection, patient=True) as gateway:
                # Nobody could go on with a conversation whose mesh ends with this command.
                session = Session(page, gateway, interrupts, OnInterrupt.CANCEL, full)
                status = await start(session, settings.model_settings().describe())
        return status
    finally:
        page.rest()
        if data_dir is None and status == EXIT_OK:
            shutil.rmtree(folder, ignore_errors=True)
        elif data_dir is None:
            page.line((f"logs and data are kept in {folder}", "dim"))


@asynccontextmanager
async def _own_mesh(page: Page, interrupts: Interrupts, folder: Path) -> AsyncIterator[Mesh]:
    plan = plan_mesh(
        folder, settings.service_environment(), ports=None, drain_seconds=_OWN_MESH_DRAIN_SECONDS
    )

    def show(status: ServiceStatus) -> None:
        if status.state is ServiceState.BACKING_OFF:
            detail = one_line(status.detail, 300)
            page.line((f"{page.marks.again} {status.name} {detail}", "yellow"))

    async with Mesh(plan, show) as mesh:
        page.wait(f"starting {', '.join(SERVICE_NAMES)}")
        await interrupts.guard(mesh.wait_ready(_START_TIMEOUT_SECONDS))
        page.rest()
        for status in mesh.statuses:
            page.line(f"{status.name:<20}", (f"{status.grpc_address}  pid {status.pid}", "dim"))
        yield mesh
