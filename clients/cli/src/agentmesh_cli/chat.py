"""A conversation at the terminal: what is typed goes up, what is said comes down, on one stream."""

import asyncio
import sys
from dataclasses import dataclass, field

from agentmesh.conversation.v1 import event_pb2
from agentmesh_client import AgentMeshError, Approval, Chat, Event

from agentmesh_cli.errors import EXIT_INTERRUPTED, EXIT_OK
from agentmesh_cli.failures import describe_failure
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.interrupts import Interrupts
from agentmesh_cli.rendering.page import Page
from agentmesh_cli.rendering.transcript import Transcript
from agentmesh_cli.typed_lines import TypedLines

COMMANDS = """/cancel   end the run           /pause    pause after the current turn
/resume   continue              /say TEXT send a message while an approval is open
/quit     leave it running      //TEXT    send /TEXT
"""
_YES = {"y", "yes", "approve"}
_NO = {"n", "no", "reject"}


class ChatPage(Page):
    """Nothing turns below the last line: there somebody types."""

    def wait(self, what: str) -> None:
        """Says nothing."""


@dataclass
class TerminalChat:
    """One conversation until somebody leaves it, or until its run ends after the last line."""

    page: Page
    gateway: Gateway
    interrupts: Interrupts
    address: str
    """Of the gateway, for messages."""
    full: bool = False
    _pending: dict[str, event_pb2.ApprovalRequested] = field(default_factory=dict)
    _cancelled: bool = False

    async def hold(self, conversation_id: str, after: int = 0) -> int:
        """Shows the conversation behind the event `after` and takes lines; returns the exit
        status."""
        # One that is not there is said at once: a stream would be tried again for a while.
        await self.interrupts.guard(self.gateway.mesh.get(conversation_id, message_limit=0))
        if after:
            await self.interrupts.guard(self._recall(conversation_id, after))
        mesh = self.gateway.mesh
        async with mesh.chat(conversation_id, after=after, until="run_end") as chat:
            showing = asyncio.create_task(self._show(chat))
            typing = asyncio.create_task(self._type(chat))
            try:
                status = await self._until_left(chat, showing, typing)
            finally:
                for task in (showing, typing):
                    task.cancel()
                await asyncio.wait({showing, typing})
        self.page.end_line()
        if not showing.cancelled():
            showing.result()
        else:
            self.page.line(f"still running; come back with: agentmesh chat {conversation_id}")
        return status

    async def _until_left(
        self, chat: Chat, showing: "asyncio.Task[None]", typing: "asyncio.Task[bool]"
    ) -> int:
        waiting: set[asyncio.Task[None] | asyncio.Task[bool]] = {showing, typing}
        while not showing.done():
            signalled = asyncio.create_task(self._signalled())
            await asyncio.wait({*waiting, signalled}, return_when=asyncio.FIRST_COMPLETED)
            interrupted = signalled.done()
            signalled.cancel()
            if interrupted and not await self._interrupt(chat):
                return EXIT_INTERRUPTED
            if typing in waiting and typing.done():
                if not typing.result():
                    return EXIT_OK
                waiting.discard(typing)
        return EXIT_OK

    async def _recall(self, conversation_id: str, after: int) -> None:
        """Shows what was asked up to the event `after` and still waits for a decision."""
        transcript = Transcript(self.page)
        async for approval in self.gateway.mesh.approvals.list(conversation_id=conversation_id):
            if approval.raw.requested_sequence <= after:
                asked = _asked(approval)
                transcript.show_event(asked)
                self._notice(asked)

    async def _signalled(self) -> None:
        await self.interrupts.wait()

    async def _show(self, chat: Chat) -> None:
        transcript = Transcript(self.page, full_output=self.full)
        try:
            async for item in chat:
                transcript.show(item)
                if isinstance(item, Event):
                    self._notice(item.raw)
        finally:
            transcript.close()

    def _notice(self, event: event_pb2.Event) -> None:
        """Keeps what waits for a decision."""
        if event.HasField("approval_requested"):
            request = event.approval_requested
            self._pending[request.approval_id] = request
            if sys.stdin.isatty():
                self.page.line((_how_to_decide(request), "dim"))
        elif event.HasField("approval_resolved"):
            self._pending.pop(event.approval_resolved.approval_id, None)
        elif event.HasField("run_ended"):
            self._pending.clear()

    async def _type(self, chat: Chat) -> bool:
        """Takes lines until there are no more; False if somebody leaves before the end."""
        lines = TypedLines()
        while (line := await lines.next()) is not None:
            try:
                if not await self._take(chat, line.strip()):
                    return False
            except AgentMeshError as error:
                self.page.line((str(describe_failure(error, self.address)), "red"))
        if sys.stdin.isatty():
            return False
        await chat.finish()
        return True

    async def _take(self, chat: Chat, line: str) -> bool:
        """Does what a line says; False if it says to leave."""
        if not line:
            return True
        if line.startswith("/") and not line.startswith("//"):
            return await self._command(chat, *line[1:].split(maxsplit=1))
        if self._pending:
            approval_id, request = next(iter(self._pending.items()))
            await self._decide(chat, approval_id, request, line)
        else:
            await self._say(chat, line[1:] if line.startswith("//") else line)
        return True

    async def _command(self, chat: Chat, name: str = "", text: str = "") -> bool:
        if name in ("quit", "exit", "q"):
            return False
        if name == "cancel":
            await chat.cancel(text or "cancelled at the command line")
        elif name == "pause":
            await chat.pause()
        elif name == "resume":
            await chat.resume()
        elif name == "say" and text:
            await self._say(chat, text)
        else:
            self.page.block(COMMANDS.rstrip(), "  ", "dim")
        return True

    async def _say(self, chat: Chat, text: str) -> None:
        self._cancelled = False
        await chat.send(text)

    async def _decide(
        self, chat: Chat, approval_id: str, request: event_pb2.ApprovalRequested, line: str
    ) -> None:
        verdict, _, comment = line.partition(" ")
        if not request.HasField("tool_call"):
            await chat.answer(approval_id, line)
        elif verdict.lower() in _YES:
            await chat.approve(approval_id, comment=comment.strip())
        elif verdict.lower() in _NO:
            await chat.reject(approval_id, reason=comment.strip())
        else:
            self.page.line((_how_to_decide(request), "yellow"))
            return
        self._pending.pop(approval_id, None)

    async def _interrupt(self, chat: Chat) -> bool:
        """Ends the run; False if that was asked for already, or there is none: then one leaves."""
        self.page.end_line()
        if self._cancelled:
            return False
        self._cancelled = True
        self.page.line(("cancelling; Ctrl-C again leaves", "yellow"))
        try:
            await self.interrupts.guard(_cancel(chat))
        except AgentMeshError as error:
            self.page.line((str(describe_failure(error, self.address)), "red"))
            return False
        return True


async def _cancel(chat: Chat) -> None:
    await chat.cancel("cancelled at the command line")


def _asked(approval: Approval) -> event_pb2.Event:
    raw = approval.raw
    request = event_pb2.ApprovalRequested(approval_id=raw.approval_id, prompt=raw.prompt)
    if raw.HasField("tool_call"):
        request.tool_call.CopyFrom(raw.tool_call)
    return event_pb2.Event(agent=raw.agent, approval_requested=request)


def _how_to_decide(request: event_pb2.ApprovalRequested) -> str:
    if request.HasField("tool_call"):
        return "type y to approve the call, n REASON to reject it"
    return "your next line is the answer; /say TEXT sends a message instead"
