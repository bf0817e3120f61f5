"""One conversation, watched from the command line until its run ends or its watcher leaves."""

import asyncio
import sys
from dataclasses import dataclass
from enum import StrEnum

from agentmesh.common.v1 import usage_pb2
from agentmesh.gateway.v1 import conversation_service_pb2
from agentmesh_client import Conversation

from agentmesh_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.interrupts import Interrupts
from agentmesh_cli.rendering.page import Page
from agentmesh_cli.rendering.tables import print_usage, status_text
from agentmesh_cli.rendering.terminal_text import strip_controls
from agentmesh_cli.rendering.tool_text import abridge_lines
from agentmesh_cli.rendering.trace_tree import print_trace
from agentmesh_cli.rendering.transcript import Transcript
from agentmesh_cli.rendering.words import word

# A span ends a moment after the event it led to.
_SPANS_SETTLE_SECONDS = 0.3


class OnInterrupt(StrEnum):
    """What Ctrl-C does to a conversation that is being watched."""

    ASK = "ask"
    CANCEL = "cancel"
    DETACH = "detach"


@dataclass
class Session:
    """Watches conversations through `gateway` on `page`.

    `full` shows long output and every span; `on_interrupt` ASK needs a terminal to ask at, and
    cancels where there is none.
    """

    page: Page
    gateway: Gateway
    interrupts: Interrupts
    on_interrupt: OnInterrupt = OnInterrupt.ASK
    full: bool = False

    async def watch(self, conversation_id: str, after_sequence: int = 0) -> int:
        """Shows the conversation until no run of it is under way; returns the exit status."""
        transcript = Transcript(self.page, full_output=self.full)
        may_print = asyncio.Event()
        may_print.set()
        watching = asyncio.create_task(
            self._show(conversation_id, after_sequence, transcript, may_print)
        )
        try:
            while not await self._ended(watching):
                may_print.clear()
                self.page.rest()
                if not await self._interrupt(conversation_id):
                    return EXIT_INTERRUPTED
                may_print.set()
        finally:
            watching.cancel()
            transcript.close()
        watching.result()
        return await self._conclude(conversation_id, transcript)

    async def _show(
        self,
        conversation_id: str,
        after_sequence: int,
        transcript: Transcript,
        may_print: asyncio.Event,
    ) -> None:
        items = self.gateway.mesh.subscribe(conversation_id, after=after_sequence, until="run_end")
        async for item in items:
            await may_print.wait()
            transcript.show(item)

    async def _ended(self, watching: "asyncio.Task[None]") -> bool:
        """Waits for the end of the stream or for a signal; False for a signal."""
        signalled = asyncio.ensure_future(self.interrupts.wait())
        await asyncio.wait({watching, signalled}, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        return watching.done()

    async def _interrupt(self, conversation_id: str) -> bool:
        """Does what Ctrl-C is for; False if the watcher leaves."""
        decision = self.on_interrupt
        if decision is OnInterrupt.ASK:
            decision = await self._ask() if sys.stdin.isatty() else OnInterrupt.CANCEL
        self.page.end_line()
        if decision is OnInterrupt.CANCEL:
            self.page.line(("cancelling", "yellow"))
            await self.gateway.mesh.cancel(conversation_id, "cancelled at the command line")
        elif decision is OnInterrupt.DETACH:
            self.page.line(f"it goes on; see it again with: agentmesh watch {conversation_id}")
            return False
        return True

    async def _ask(self) -> OnInterrupt:
        """Asks what to do; ASK stands for going on as before. Ctrl-C again means leaving."""
        self.page.line("")
        self.page.line(
            ("[c]ancel the conversation, [d]etach and leave it running, or Enter to go on?", "bold")
        )
        typed = asyncio.ensure_future(_read_line())
        again = asyncio.ensure_future(self.interrupts.wait())
        try:
            await asyncio.wait({typed, again}, return_when=asyncio.FIRST_COMPLETED)
            if not typed.done():
                return OnInterrupt.DETACH
            answer = typed.result().strip().lower()
        finally:
            typed.cancel()
            again.cancel()
        if answer.startswith("c"):
            return OnInterrupt.CANCEL
        return OnInterrupt.DETACH if answer.startswith("d") else OnInterrupt.ASK

    async def _conclude(self, conversation_id: str, transcript: Transcript) -> int:
        found = await self.gateway.mesh.get(conversation_id, message_limit=0)
        print_ending(self.page, found)
        print_usage(self.page.console, transcript.usage, usage_of(found))
        await asyncio.sleep(_SPANS_SETTLE_SECONDS)
        trace = await self.gateway.trace(conversation_id)
        self.page.line()
        print_trace(
            self.page.console, trace.trace_id, trace.spans, trace.unreachable, every_span=self.full
        )
        return EXIT_OK if found.status == "completed" else EXIT_FAILED


def print_ending(page: Page, found: Conversation) -> None:
    """How the newest run ended, and its summary."""
    run = _whole(found).run
    status = found.status
    parts = ["1 round" if run.rounds == 1 else f"{run.rounds} rounds"]
    if run.HasField("ended_at"):
        took = run.ended_at.ToDatetime() - run.started_at.ToDatetime()
        parts.append(f"{took.total_seconds():.1f} s")
    if run.end_reason:
        parts.append(word(run, "end_reason").replace("_", " "))
    page.line()
    page.console.print(status_text(status), f"({', '.join(parts)})", soft_wrap=True)
    if run.detail:
        page.block(strip_controls(run.detail), "  ", "yellow")
    if found.summary:
        page.line()
        page.line(("summary", "bold"))
        page.block(abridge_lines(strip_controls(found.summary).strip()), "  ")
    page.line()


def usage_of(found: Conversation) -> usage_pb2.Usage:
    """What all runs of a conversation consumed."""
    return _whole(found).usage


def _whole(found: Conversation) -> conversation_service_pb2.GetConversationResponse:
    if not isinstance(found.raw, conversation_service_pb2.GetConversationResponse):
        raise TypeError("the conversation was listed or started, not read")
    return found.raw


async def _read_line() -> str:
    """The next line of standard input, without a thread that nobody could stop."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sys.stdin, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline()
