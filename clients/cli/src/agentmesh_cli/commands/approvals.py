"""agentmesh approvals: what waits for a person, and what they decide."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from agentmesh_client import Approval
from cyclopts import App, Parameter
from rich.console import Console

from agentmesh_cli.errors import EXIT_OK, UsageError
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.options import NO_CONNECTION, Connection, JsonFlag
from agentmesh_cli.rendering.approvals import print_approval, print_approvals
from agentmesh_cli.rendering.json_output import dump, to_json

APPROVALS_EXAMPLES = """Examples:
  agentmesh approvals
  agentmesh approvals show appr_…
  agentmesh approvals approve appr_…
  agentmesh approvals reject appr_… --reason "it is in use"
  agentmesh approvals edit appr_… '{"path": "drafts/a.txt"}'
  agentmesh approvals answer appr_… "the blue one"

The conversation continues once its last open approval is decided.
"""

Comment = Annotated[str, Parameter(help="Passed on to the model.")]
Decide = Callable[[Gateway], Awaitable[Approval]]


def register(app: App, console: Console) -> None:
    """Adds the commands to `app`."""
    approvals = App(
        name="approvals",
        help="List and decide tool calls and questions that wait for a person.",
        help_epilogue=APPROVALS_EXAMPLES,
    )
    app.command(approvals)
    _register_reading(approvals, console)
    _register_calls(approvals, console)
    _register_questions(approvals, console)


def _register_reading(approvals: App, console: Console) -> None:
    @approvals.default
    @approvals.command(name="list")
    async def list_(
        *,
        conversation: Annotated[str, Parameter(help="Only of this conversation (conv_…).")] = "",
        all_: Annotated[
            bool, Parameter(name="--all", negative="", help="Include decided ones.")
        ] = False,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """List what waits for a person, oldest first."""
        status = "" if all_ else "pending"
        async with Gateway.open(connection) as gateway:
            listed = gateway.mesh.approvals.list(status=status, conversation_id=conversation)
            found = [approval async for approval in listed]
        if json:
            console.out(dump([to_json(approval.raw) for approval in found]), highlight=False)
        elif not found:
            console.print("nothing waits for a person")
        else:
            print_approvals(console, found)
        return EXIT_OK

    @approvals.command
    async def show(
        approval: str,
        /,
        *,
        messages: Annotated[
            int, Parameter(help="How many of the messages that led to it to show; at most 100.")
        ] = 20,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Show an approval and the messages that led to it.

        Parameters
        ----------
        approval
            Its id (appr_…).
        """
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.approvals.get(approval, context_messages=messages)
        if json:
            context = [to_json(event.raw) for event in found.context]
            shown = {"approval": to_json(found.raw), "context": context}
            console.out(dump(shown), highlight=False)
        else:
            print_approval(console, found)
        return EXIT_OK


def _register_calls(approvals: App, console: Console) -> None:
    @approvals.command
    async def approve(
        approval: str,
        /,
        *,
        comment: Comment = "",
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Approve a tool call as it is, or answer yes to a question."""
        return await _decided(
            console,
            connection,
            json,
            lambda gateway: gateway.mesh.approvals.approve(approval, comment=comment),
        )

    @approvals.command
    async def edit(
        approval: str,
        arguments: str,
        /,
        *,
        comment: Comment = "",
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Approve a tool call with different arguments.

        Parameters
        ----------
        approval
            Its id (appr_…).
        arguments
            All arguments as a JSON object; @FILE reads them from a file.
        """
        text = _read(arguments[1:]) if arguments.startswith("@") else arguments
        return await _decided(
            console,
            connection,
            json,
            lambda gateway: gateway.mesh.approvals.edit(approval, text, comment=comment),
        )

    @approvals.command
    async def reject(
        approval: str,
        /,
        *,
        reason: Comment = "",
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Reject a tool call, or answer no to a question."""
        return await _decided(
            console,
            connection,
            json,
            lambda gateway: gateway.mesh.approvals.reject(approval, reason=reason),
        )


def _register_questions(approvals: App, console: Console) -> None:
    @approvals.command
    async def answer(
        approval: str,
        text: str,
        /,
        *,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Answer a question."""
        return await _decided(
            console,
            connection,
            json,
            lambda gateway: gateway.mesh.approvals.answer(approval, text),
        )


async def _decided(console: Console, connection: Connection, json: bool, decide: Decide) -> int:
    async with Gateway.open(connection) as gateway:
        approval = await decide(gateway)
    if json:
        console.out(dump(to_json(approval.raw)), highlight=False)
    else:
        print_approvals(console, [approval])
    return EXIT_OK


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {name}: {error}", remedy="name a UTF-8 text file") from None
