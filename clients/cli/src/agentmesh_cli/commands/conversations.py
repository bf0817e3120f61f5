"""agentmesh watch, list, show, send, cancel, trace."""

from typing import Annotated

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh_client import Conversation
from agentmesh_client.client import Strategy
from cyclopts import App, Parameter
from rich.console import Console

from agentmesh_cli.errors import EXIT_OK, UsageError
from agentmesh_cli.feed import show_feed
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.images import LocalImages
from agentmesh_cli.interrupts import Interrupts
from agentmesh_cli.options import (
    NO_CONNECTION,
    Connection,
    FromSequence,
    Images,
    JsonFlag,
    events_before,
)
from agentmesh_cli.rendering.json_output import dump, to_json
from agentmesh_cli.rendering.page import Page
from agentmesh_cli.rendering.tables import print_conversations, print_usage
from agentmesh_cli.rendering.terminal_text import one_line
from agentmesh_cli.rendering.trace_tree import print_trace
from agentmesh_cli.rendering.transcript import Transcript
from agentmesh_cli.rendering.words import enum_word
from agentmesh_cli.session import OnInterrupt, Session, print_ending, usage_of

Full = Annotated[bool, Parameter(negative="", help="Show tool output and the trace in full.")]

WATCH_EXAMPLES = """Examples:
  agentmesh watch conv_…             all of it, then live
  agentmesh watch conv_… --from 20   from event 20 on
  agentmesh watch --all              new events of all conversations

Ctrl-C leaves; the conversation keeps running. Exit status as for `agentmesh run`.
"""
SHOW_EXAMPLES = """Examples:
  agentmesh show conv_…
  agentmesh show conv_… --json
"""
SEND_EXAMPLES = """Examples:
  agentmesh send conv_… "shorter, please"
  agentmesh send conv_… "stop, use Go instead" --strategy interrupt
"""
CANCEL_EXAMPLES = """Examples:
  agentmesh cancel conv_… --reason "wrong branch"

A later `agentmesh send` starts a new run in the same conversation.
"""
TRACE_EXAMPLES = """Examples:
  agentmesh trace conv_…          equal spans joined
  agentmesh trace conv_… --full   every span
"""
LIST_EXAMPLES = """Examples:
  agentmesh list --status running,waiting
  agentmesh list --json
"""


def register(app: App, console: Console) -> None:
    """Adds the commands to `app`."""

    @app.command(help_epilogue=WATCH_EXAMPLES)
    async def watch(
        conversation: str = "",
        /,
        *,
        all_: Annotated[
            bool,
            Parameter(
                name="--all", negative="", help="Follow all conversations, one line per event."
            ),
        ] = False,
        from_: FromSequence = 1,
        full: Full = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Show a conversation from the start, then live until its run ends.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        if bool(conversation) == all_:
            raise UsageError("CONVERSATION or --all is needed", remedy="give one of them")
        after = events_before(from_)
        with Interrupts() as interrupts:
            async with Gateway.open(connection) as gateway:
                if all_:
                    await interrupts.guard(show_feed(Page(console), gateway))
                session = Session(Page(console), gateway, interrupts, OnInterrupt.DETACH, full)
                await gateway.mesh.get(conversation, message_limit=0)  # fails at once if it must
                return await session.watch(conversation, after_sequence=after)

    @app.command(name="list", help_epilogue=LIST_EXAMPLES)
    async def list_(
        *,
        status: Annotated[
            str, Parameter(help="Only these statuses, comma-separated: running,waiting,completed,…")
        ] = "",
        agent: Annotated[
            str, Parameter(help="Only conversations in which this agent takes part.")
        ] = "",
        limit: Annotated[int, Parameter(help="Maximum number to show.")] = 20,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """List conversations, newest first."""
        if not 1 <= limit <= 500:
            raise UsageError(f"--limit {limit} is out of range", remedy="choose 1 to 500")
        statuses = _statuses(status)
        found: list[Conversation] = []
        async with Gateway.open(connection) as gateway:
            async for conversation in gateway.mesh.list(
                statuses=statuses, agent=agent, page_size=limit
            ):
                found.append(conversation)
                if len(found) == limit:
                    break
        if json:
            _print_json(console, [to_json(conversation.raw) for conversation in found])
        elif not found:
            console.print("no conversations")
        else:
            print_conversations(console, found)
        return EXIT_OK

    @app.command(help_epilogue=SHOW_EXAMPLES)
    async def show(
        conversation: str,
        /,
        *,
        full: Full = False,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Show a conversation as it stands: messages, status, summary, usage.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.get(conversation)
            if json:
                _print_json(console, to_json(found.raw))
                return EXIT_OK
            page = Page(console)
            transcript = Transcript(page, full_output=full)
            async for item in gateway.mesh.subscribe(conversation, until="head", deltas=False):
                transcript.show(item)
            transcript.close()
            print_ending(page, found)
            print_usage(console, transcript.usage, usage_of(found))
        return EXIT_OK

    @app.command(help_epilogue=SEND_EXAMPLES)
    async def send(
        conversation: str,
        text: str,
        /,
        *,
        image: Images = None,
        strategy: Annotated[
            Strategy,
            Parameter(
                help="What happens to the current turn: after_turn lets it finish, interrupt "
                "stops it, replace_turn also takes back the one before, reject_if_running "
                "refuses the message."
            ),
        ] = "after_turn",
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Send a message to a conversation; if its run has ended, a new one starts.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        text
            The message.
        """
        if not text.strip():
            raise UsageError("TEXT is empty", remedy="give the message to send")
        images = await LocalImages.read(image)
        async with Gateway.open(connection) as gateway:
            attachments = await images.upload(gateway.mesh)
            sequence = await gateway.mesh.send(
                conversation, text, attachments=attachments, strategy=strategy
            )
        if json:
            _print_json(console, {"conversation_id": conversation, "sequence": sequence})
        else:
            console.print(f"sent as event {sequence}")
        return EXIT_OK

    @app.command(help_epilogue=CANCEL_EXAMPLES)
    async def cancel(
        conversation: str,
        /,
        *,
        reason: Annotated[str, Parameter(help="Recorded in the log.")] = "",
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Cancel the current run of a conversation and kill the code that it runs.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        async with Gateway.open(connection) as gateway:
            status = await gateway.mesh.cancel(conversation, reason)
        if json:
            _print_json(console, {"conversation_id": conversation, "status": status})
        else:
            console.print(status)
        return EXIT_OK

    @app.command(help_epilogue=TRACE_EXAMPLES)
    async def trace(
        conversation: str,
        /,
        *,
        full: Annotated[
            bool, Parameter(negative="", help="Show every span instead of joining equal ones.")
        ] = False,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Show the trace of a conversation's newest run, across all services, as a tree.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        async with Gateway.open(connection) as gateway:
            found = await gateway.trace(conversation)
        if json:
            _print_json(console, to_json(found))
        else:
            print_trace(
                console, one_line(found.trace_id, 32), found.spans, found.unreachable,
                every_span=full,
            )  # fmt: skip
        return EXIT_OK


def _print_json(console: Console, value: object) -> None:
    console.out(dump(value), highlight=False)


def _statuses(names: str) -> list[str]:
    enum = conversation_pb2.ConversationStatus.DESCRIPTOR
    known = [enum_word(enum, number) for number in enum.values_by_number if number]
    chosen = [name.strip().lower() for name in names.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise UsageError(
            f"--status {', '.join(unknown)} is unknown", remedy=f"use {', '.join(known)}"
        )
    return chosen
