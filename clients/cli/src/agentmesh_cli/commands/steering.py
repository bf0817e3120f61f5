"""agentmesh pause, resume, fork, update: a conversation is steered while it runs."""

from datetime import timedelta
from typing import Annotated

from agentmesh_client import Budget
from cyclopts import App, Parameter
from rich.console import Console

from agentmesh_cli.errors import EXIT_OK, UsageError
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.options import NO_CONNECTION, Connection, JsonFlag
from agentmesh_cli.rendering.json_output import dump, to_json

Limit = Annotated[int | None, Parameter(help="Part of the new budget.")]

STEERING_EXAMPLES = """Examples:
  agentmesh pause conv_…
  agentmesh resume conv_…
"""
FORK_EXAMPLES = """Examples:
  agentmesh fork conv_… --at 12
  agentmesh send conv_… "now without recursion"     with the id that fork printed
"""
UPDATE_EXAMPLES = """Examples:
  agentmesh update conv_… --max-rounds 40
  agentmesh update conv_… --max-tokens 200000 && agentmesh resume conv_…

The new budget replaces the old one: a limit that you do not name is no longer set.
"""


def register(app: App, console: Console) -> None:
    """Adds the commands to `app`."""

    @app.command(help_epilogue=STEERING_EXAMPLES)
    async def pause(
        conversation: str, /, *, json: JsonFlag = False, connection: Connection = NO_CONNECTION
    ) -> int:
        """Pause a conversation after its current turn; `resume` continues it.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        async with Gateway.open(connection) as gateway:
            status = await gateway.mesh.pause(conversation)
        return _tell(console, conversation, status, json=json)

    @app.command(help_epilogue=STEERING_EXAMPLES)
    async def resume(
        conversation: str, /, *, json: JsonFlag = False, connection: Connection = NO_CONNECTION
    ) -> int:
        """Continue a paused conversation, or retry the turn in which it failed.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        async with Gateway.open(connection) as gateway:
            status = await gateway.mesh.resume(conversation)
        return _tell(console, conversation, status, json=json)

    @app.command(help_epilogue=FORK_EXAMPLES)
    async def fork(
        conversation: str,
        /,
        *,
        at: Annotated[
            int, Parameter(help="Sequence of the last event to share [default: all].")
        ] = 0,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Fork a conversation: a new one with the same history, to be continued with `send`.

        Parameters
        ----------
        conversation
            The id of the one to fork (conv_…).
        """
        if at < 0:
            raise UsageError(f"--at {at} is too small", remedy="events are numbered from 1")
        async with Gateway.open(connection) as gateway:
            made = await gateway.mesh.fork(conversation, at_sequence=at)
        if json:
            console.out(dump(to_json(made.raw)), highlight=False)
        else:
            console.print(made.id)
        return EXIT_OK

    @app.command(help_epilogue=UPDATE_EXAMPLES)
    async def update(
        conversation: str,
        /,
        *,
        max_rounds: Annotated[
            int | None, Parameter(help="Maximum number of turns of a run.")
        ] = None,
        max_turns: Limit = None,
        max_tokens: Limit = None,
        max_cost_micros: Limit = None,
        max_seconds: Limit = None,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Change the limits of a conversation, also while it runs.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        limits = {
            "--max-rounds": max_rounds,
            "--max-turns": max_turns,
            "--max-tokens": max_tokens,
            "--max-cost-micros": max_cost_micros,
            "--max-seconds": max_seconds,
        }
        named = {option: value for option, value in limits.items() if value is not None}
        if not named:
            raise UsageError("nothing to change", remedy=f"name one of {', '.join(limits)}")
        for option, value in named.items():
            if value < 1:
                raise UsageError(f"{option} {value} is too small", remedy="it must be 1 or more")
        budget = Budget(
            max_turns,
            max_tokens,
            max_cost_micros,
            None if max_seconds is None else timedelta(seconds=max_seconds),
        )
        async with Gateway.open(connection) as gateway:
            changed = await gateway.mesh.update(
                conversation,
                max_rounds=max_rounds,
                budget=budget if budget != Budget() else None,
            )
        if json:
            console.out(dump(to_json(changed.raw)), highlight=False)
        else:
            console.print(f"{', '.join(named)} changed")
        return EXIT_OK


def _tell(console: Console, conversation: str, status: str, *, json: bool) -> int:
    if json:
        shown = {"conversation_id": conversation, "status": status}
        console.out(dump(shown), highlight=False)
    else:
        console.print(status)
    return EXIT_OK
