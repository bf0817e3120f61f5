"""Renders a conversation as it happens."""

from collections.abc import Callable
from typing import Final

from agentmesh.common.v1 import usage_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2
from agentmesh_client import Delta, Event

from agentmesh_cli.rendering.live_text import LiveMessage, LiveMessages
from agentmesh_cli.rendering.page import Page
from agentmesh_cli.rendering.terminal_text import ControlStripper, one_line, strip_controls
from agentmesh_cli.rendering.tool_text import (
    abridge_arguments,
    abridge_lines,
    describe_outcome,
    outcome_is_good,
)
from agentmesh_cli.rendering.words import word

_BODY: Final = "  "
_OUTPUT_KINDS = frozenset({"stdout", "stderr"})


class Transcript:
    """Shows the items of a subscription in the order in which they come.

    On a terminal, messages appear as they are written and tool output as it is printed, one
    message at a time; what comes of others meanwhile waits for its turn. Elsewhere only events
    are shown, so that the same conversation always gives the same text.

    After the run has ended, `ended` holds its last event and `usage` what each speaker consumed.
    """

    def __init__(self, page: Page, *, full_output: bool = False) -> None:
        self.ended: event_pb2.RunEnded | None = None
        self.usage: dict[str, usage_pb2.Usage] = {}
        self.last_sequence = 0
        self._page = page
        self._full_output = full_output
        self._live = LiveMessages()
        self._open_id = ""
        self._open_style = ""
        self._stripper = ControlStripper()
        self._speaker = ""
        self._calls: dict[str, message_pb2.ToolCallPart] = {}
        self._shows: dict[str, Callable[[event_pb2.Event], None]] = {
            "message": self._show_message,
            "turn_committed": self._show_turn,
            "turn_discarded": self._show_discarded_turn,
            "workspace_restored": self._show_restored_files,
            "run_started": self._show_run_started,
            "run_status_changed": self._show_status,
            "run_ended": self._show_end,
            "approval_requested": self._show_approval_request,
            "approval_resolved": self._show_approval,
            "approval_escalated": self._show_escalation,
            "handoff": self._show_handoff,
            "attempt_failed": self._show_failed_attempt,
            "stage_changed": self._show_stage,
            "redacted": self._show_redacted,
        }

    def show(self, item: Event | Delta) -> None:
        """Shows one item. Kinds of events that this version does not know are passed over."""
        if isinstance(item, Event):
            self.show_event(item.raw)
        elif self._page.live:
            self._show_delta(item)

    def show_event(self, event: event_pb2.Event) -> None:
        """Shows one event of the log."""
        self.last_sequence = max(self.last_sequence, event.sequence)
        show = self._shows.get(event.WhichOneof("kind") or "")
        if show is not None:
            show(event)

    def close(self) -> None:
        """Ends whatever was being written."""
        self._page.rest()
        self._page.end_line()

    # -- messages while they are made

    def _show_delta(self, delta: Delta) -> None:
        piece = self._live.add(delta)
        if piece.restarted:
            self._say_taken_up_again(delta.message_id)
        if delta.kind == "tool_arguments" and not self._open_id:
            self._page.wait(f"{one_line(delta.agent, 40)} writes a tool call")
        if not piece.text or self._open_id not in ("", delta.message_id):
            return
        text = piece.text
        if not self._open_id:
            self._open(delta)
            text = piece.message.joined()
        style = "red" if delta.kind == "stderr" else self._open_style
        self._page.grow(self._stripper.feed(text), self._gutter(delta.kind), style)

    def _open(self, delta: Delta) -> None:
        self._open_id = delta.message_id
        self._open_style = "dim" if delta.kind in _OUTPUT_KINDS else ""
        self._stripper = ControlStripper()
        self._heading(delta.agent)

    def _close_live(self, message_id: str) -> LiveMessage | None:
        """What was shown of a message whose event came; None if nothing was."""
        live = self._live.finish(message_id)
        if self._open_id != message_id:
            # Never opened, because another one was being written.
            return None
        self._open_id = ""
        return live

    def _say_taken_up_again(self, message_id: str) -> None:
        if self._open_id != message_id:
            return
        self._open_id = ""
        self._page.line(
            (f"{_BODY}{self._page.marks.again} interrupted; it is made again", "yellow")
        )

    # -- messages

    def _show_message(self, event: event_pb2.Event) -> None:
        message = event.message
        if message.role == message_pb2.MESSAGE_ROLE_TOOL:
            self._show_results(message)
        else:
            self._show_said(message)
        self._page.wait(self._expectation(message))

    def _show_said(self, message: message_pb2.Message) -> None:
        shown = self._close_live(message.message_id)
        said = _text_of(message)
        before = shown.joined() if shown is not None else ""
        if shown is not None and said.startswith(before):
            self._page.grow(self._stripper.feed(said[len(before) :]), _BODY)
            self._page.end_line()
        elif said.strip():
            if shown is not None:
                self._page.line(
                    (f"{_BODY}{self._page.marks.again} the message as recorded:", "dim")
                )
            else:
                self._heading(_speaker_of(message))
            self._page.block(strip_controls(said).strip("\n"), _BODY)
        for part in message.parts:
            if part.HasField("tool_call"):
                self._show_call(message.agent, part.tool_call)
            elif part.HasField("blob"):
                self._page.line((f"{_BODY}{_describe_blob(part.blob)}", "dim"))

    def _show_call(self, agent: str, call: message_pb2.ToolCallPart) -> None:
        self._calls[call.tool_call_id] = call
        self._heading(agent)
        self._page.line(
            (f"{_BODY}{self._page.marks.call} ", "dim"),
            (one_line(call.tool, 64), "bold"),
            (f" {abridge_arguments(call.arguments_json)}", "dim"),
        )

    def _show_results(self, message: message_pb2.Message) -> None:
        shown = self._close_live(message.message_id)
        for part in message.parts:
            if part.HasField("tool_result"):
                self._show_result(message.agent, part.tool_result, shown)

    def _show_result(
        self, agent: str, result: message_pb2.ToolResultPart, shown: LiveMessage | None
    ) -> None:
        self._heading(agent)
        if shown is None or shown.gap or not shown.text:
            output = strip_controls(result.output).strip("\n")
            if output:
                lines = output if self._full_output else abridge_lines(output)
                self._page.block(lines, self._gutter("stdout"), "dim")
        good = outcome_is_good(result)
        self._page.line(
            (
                f"{_BODY}{self._page.marks.good if good else self._page.marks.bad} ",
                "green" if good else "red",
            ),
            (one_line(result.tool, 64), "bold"),
            (f" {describe_outcome(result)}", "dim" if good else "red"),
        )

    def _heading(self, speaker: str) -> None:
        """Names the speaker unless the lines above are already under that name."""
        speaker = one_line(speaker, 64)
        if speaker == self._speaker:
            return
        self._speaker = speaker
        colour = self._page.colour(speaker)
        self._page.line()
        self._page.line((f"{self._page.marks.speaker} ", colour), (speaker, f"bold {colour}"))

    def _expectation(self, message: message_pb2.Message) -> str:
        for part in message.parts:
            if part.HasField("tool_call"):
                return f"{one_line(part.tool_call.tool, 40)} runs"
        if message.role == message_pb2.MESSAGE_ROLE_TOOL:
            return f"{one_line(message.agent, 40)} thinks"
        return "waiting for the next speaker"

    def _gutter(self, kind: str) -> str:
        return f"{_BODY}{self._page.marks.output} " if kind in _OUTPUT_KINDS else _BODY

    # -- everything else

    def _note(self, text: str, style: str = "dim") -> None:
        self._page.line((f"{self._page.marks.note} {text}", style))

    def _show_run_started(self, event: event_pb2.Event) -> None:
        self.ended = None
        self._page.wait("waiting for a runtime")

    def _show_turn(self, event: event_pb2.Event) -> None:
        committed = event.turn_committed
        total = self.usage.setdefault(one_line(committed.speaker or "?", 64), usage_pb2.Usage())
        add_usage(total, committed.usage)
        self._live.finish_turn()
        self._open_id = ""
        self._speaker = ""  # The next turn gets a heading of its own, even of the same speaker.
        self._page.wait("waiting for the next turn")

    def _show_discarded_turn(self, event: event_pb2.Event) -> None:
        self._live.finish_turn()
        self._open_id = ""
        self._speaker = ""
        reason = one_line(event.turn_discarded.reason, 300)
        self._page.line(
            (f"{self._page.marks.again} turn {event.turn} given up: {reason}", "yellow")
        )

    def _show_restored_files(self, event: event_pb2.Event) -> None:
        self._note(one_line(event.workspace_restored.text, 300), "yellow")

    def _show_status(self, event: event_pb2.Event) -> None:
        change = event.run_status_changed
        if change.status == conversation_pb2.RUN_STATUS_WAITING:
            what = f"{word(change, 'waiting_for')} {one_line(change.detail, 300)}"
            self._note(f"waiting for {what}".rstrip(), "yellow")
        elif change.status == conversation_pb2.RUN_STATUS_PAUSED:
            self._note("paused", "yellow")
        else:
            self._page.wait("going on")

    def _show_end(self, event: event_pb2.Event) -> None:
        self.ended = event.run_ended
        self._page.rest()

    def _show_approval_request(self, event: event_pb2.Event) -> None:
        request = event.approval_requested
        self._page.line(
            (f"{self._page.marks.question} {one_line(request.prompt, 500)}", "bold yellow"),
            (f"  ({one_line(request.approval_id, 64)})", "dim"),
        )
        if request.HasField("tool_call"):
            self._show_call(event.agent, request.tool_call)

    def _show_approval(self, event: event_pb2.Event) -> None:
        resolved = event.approval_resolved
        comment = one_line(resolved.comment, 300)
        by = f" by {one_line(resolved.principal, 64)}" if resolved.principal else ""
        self._note(f"{word(resolved, 'status')}{by} {comment}".rstrip())

    def _show_escalation(self, event: event_pb2.Event) -> None:
        escalated = event.approval_escalated
        self._note(
            f"nobody decided; {one_line(escalated.approval_id, 64)} is for the role "
            f"{one_line(escalated.role, 16)} now",
            "yellow",
        )

    def _show_handoff(self, event: event_pb2.Event) -> None:
        handoff = event.handoff
        self._note(
            f"{one_line(handoff.from_agent, 64)} {self._page.marks.call} "
            f"{one_line(handoff.to_agent, 64)}"
        )

    def _show_failed_attempt(self, event: event_pb2.Event) -> None:
        failed = event.attempt_failed
        delay = failed.retry_after.ToTimedelta().total_seconds()
        self._note(
            f"attempt {failed.attempt} failed: {one_line(failed.detail, 500)}; "
            f"the next one in {delay:.1f} s",
            "yellow",
        )

    def _show_stage(self, event: event_pb2.Event) -> None:
        stage = event.stage_changed
        detail = one_line(stage.detail, 300)
        self._note(
            f"stage {one_line(stage.stage, 64)} {one_line(stage.state, 32)} {detail}".rstrip()
        )

    def _show_redacted(self, event: event_pb2.Event) -> None:
        self._note(f"event {event.sequence} was removed: {one_line(event.redacted.reason, 300)}")


def add_usage(total: usage_pb2.Usage, more: usage_pb2.Usage) -> None:
    """Adds `more` to `total` in place."""
    for field in usage_pb2.Usage.DESCRIPTOR.fields:
        if field.name == "estimated":
            total.estimated = total.estimated or more.estimated
        else:
            setattr(total, field.name, getattr(total, field.name) + getattr(more, field.name))


def _speaker_of(message: message_pb2.Message) -> str:
    if message.role == message_pb2.MESSAGE_ROLE_USER:
        known = message.author not in ("", "anonymous")
        return f"user ({message.author})" if known else "user"
    return message.agent or word(message, "role")


def _text_of(message: message_pb2.Message) -> str:
    texts = [part.text.text for part in message.parts if part.HasField("text")]
    return "\n".join(texts) if message.parts else message.content


def _describe_blob(blob: message_pb2.BlobPart) -> str:
    name = one_line(blob.filename, 120) or "a file"
    kind = one_line(blob.media_type, 80) or "of an unknown type"
    return f"[{name}: {kind}, {blob.size_bytes} bytes]"
