"""agentmesh chat: a conversation at the terminal."""

from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from agentmesh_cli.chat import COMMANDS, ChatPage, TerminalChat
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.interrupts import Interrupts
from agentmesh_cli.options import NO_CONNECTION, Connection, FromSequence, events_before

CHAT_EXAMPLES = f"""Each line you type is a message. While a question waits for you, the line is the
answer; while a tool call does, type y to approve it, or n REASON to reject it.
Lines that begin with a slash are commands:
{COMMANDS}
Ctrl-C ends the run, a second one leaves; Ctrl-D leaves and lets it run.
A broken connection is resumed; nothing is sent or shown twice.

Examples:
  agentmesh chat conv_…              all of it, then live
  agentmesh chat conv_… --from 20    from event 20 on
  echo "shorter, please" | agentmesh chat conv_…
                                     until the run ends

Exit status: 0 success, 1 if the chat broke off, 130 if you left with Ctrl-C.
"""


def register(app: App, console: Console) -> None:
    """Adds the command to `app`."""

    @app.command(help_epilogue=CHAT_EXAMPLES)
    async def chat(
        conversation: str,
        /,
        *,
        from_: FromSequence = 1,
        full: Annotated[bool, Parameter(negative="", help="Show tool output in full.")] = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Take part in a conversation: read along, send messages, answer, approve.

        Parameters
        ----------
        conversation
            Its id (conv_…).
        """
        after = events_before(from_)
        with Interrupts() as interrupts:
            async with Gateway.open(connection) as gateway:
                address = connection.resolve_address()
                talk = TerminalChat(ChatPage(console), gateway, interrupts, address, full)
                return await talk.hold(conversation, after)
