"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from agentmesh_cli import settings
from agentmesh_cli.errors import UsageError
from agentmesh_cli.supervisor import read_mesh_file

CONNECTION_GROUP = Group("Connection", sort_key=100)

JsonFlag = Annotated[bool, Parameter(negative="", help="Print JSON for programs.")]

FromSequence = Annotated[int, Parameter(name="--from", help="Sequence of the first event to show.")]

Images = Annotated[
    list[Path] | None,
    Parameter(
        name="--image",
        negative="",
        help="An image to attach: PNG, JPEG, GIF or WebP. Repeatable.",
    ),
]

DataDir = Annotated[
    Path | None,
    Parameter(
        env_var=settings.DATA_DIR_VARIABLE,
        help="Data directory of the local mesh [default: ~/.local/share/agentmesh].",
    ),
]


@Parameter(name="*", group=CONNECTION_GROUP)
@dataclass(frozen=True)
class Connection:
    """Which mesh a command talks to, and as whom."""

    address: Annotated[
        str | None,
        Parameter(
            env_var=settings.ADDRESS_VARIABLE,
            help="host:port of the gateway [default: the mesh of the data directory, "
            f"else {settings.DEFAULT_ADDRESS}].",
        ),
    ] = None
    api_key: Annotated[
        str | None,
        Parameter(env_var=settings.API_KEY_VARIABLE, help="API key (amk_…)."),
    ] = None
    data_dir: DataDir = None

    def resolve_address(self) -> str:
        """The gateway to call: the one named, else that of the local mesh, else the default."""
        if self.address:
            return self.address
        mesh = read_mesh_file(self.data_dir or settings.default_data_dir())
        if mesh is not None and mesh.addresses.get("gateway"):
            return mesh.addresses["gateway"]
        return settings.DEFAULT_ADDRESS


NO_CONNECTION = Connection()


def events_before(first: int) -> int:
    """How many events --from leaves out. Raises UsageError."""
    if first < 1:
        raise UsageError(f"--from {first} is too small", remedy="events are numbered from 1")
    return first - 1
