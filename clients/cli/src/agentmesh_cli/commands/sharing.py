"""agentmesh share, unshare, grants: who else may read a conversation or take part."""

from enum import StrEnum
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from agentmesh_cli.errors import EXIT_OK, UsageError
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.options import NO_CONNECTION, Connection, JsonFlag
from agentmesh_cli.rendering.json_output import dump, to_json
from agentmesh_cli.rendering.tables import print_grants

SHARE_EXAMPLES = """Examples:
  agentmesh share conv_… --with key_…
  agentmesh share conv_… --with-role user --write
  agentmesh unshare conv_… --with key_…
  agentmesh grants conv_…
"""


class SharedRole(StrEnum):
    """Roles that a conversation can be shared with."""

    VIEWER = "viewer"
    USER = "user"
    SERVICE = "service"


Subject = Annotated[
    str,
    Parameter(name="--with", help="A subject: a key's id, or a user's name as `owner` shows it."),
]
ToRole = Annotated[
    SharedRole | None, Parameter(name="--with-role", help="Everyone whose role includes this one.")
]


def register(app: App, console: Console) -> None:
    """Adds the commands to `app`."""

    @app.command(help_epilogue=SHARE_EXAMPLES)
    async def share(
        conversation: str,
        /,
        *,
        subject: Subject = "",
        role: ToRole = None,
        write: Annotated[
            bool, Parameter(negative="", help="Allow taking part, not only reading.")
        ] = False,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Let others read a conversation of yours, or take part in it.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        _check(subject, role)
        async with Gateway.open(connection) as gateway:
            grant = await gateway.mesh.sharing.share(
                conversation,
                subject=subject,
                role=role or "",
                access="write" if write else "read",
            )
        if json:
            console.out(dump(to_json(grant.raw)), highlight=False)
        else:
            print_grants(console, [grant])
        return EXIT_OK

    @app.command(help_epilogue=SHARE_EXAMPLES)
    async def unshare(
        conversation: str,
        /,
        *,
        subject: Subject = "",
        role: ToRole = None,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Take back a share of a conversation.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        _check(subject, role)
        async with Gateway.open(connection) as gateway:
            await gateway.mesh.sharing.unshare(conversation, subject=subject, role=role or "")
        return EXIT_OK

    @app.command(help_epilogue=SHARE_EXAMPLES)
    async def grants(
        conversation: str, /, *, json: JsonFlag = False, connection: Connection = NO_CONNECTION
    ) -> int:
        """Show with whom a conversation is shared.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.sharing.list(conversation)
        if json:
            for grant in found:
                console.out(dump(to_json(grant.raw)), highlight=False)
        else:
            print_grants(console, found)
        return EXIT_OK


def _check(subject: str, role: SharedRole | None) -> None:
    if bool(subject) == bool(role):
        raise UsageError(
            "nobody to share with" if not subject else "a subject and a role",
            remedy="name one of --with and --with-role",
        )
