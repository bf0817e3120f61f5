"""Notices as bytes; see notice.proto in the contracts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import notice_pb2 as pb

from agentmesh_conversation_store.codec.values import instant, timestamp
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import RaisedFence, RunStatus
from agentmesh_conversation_store.storage.interface import Head

from .interface import (
    ChangedRun,
    ConversationDeleted,
    DeltasMade,
    EventsCommitted,
    FencesRaised,
    LiveDelta,
    Notice,
    RunsChanged,
    TextWanted,
)

_KNOWN_STATUSES = frozenset(int(status) for status in RunStatus)
_OVERHEAD = 96
_EVENT_OVERHEAD = 128


def weight(notice: Notice) -> int:
    """About how many bytes a notice takes."""
    if isinstance(notice, EventsCommitted):
        return _OVERHEAD + sum(_EVENT_OVERHEAD + len(event.data) for event in notice.events)
    if isinstance(notice, DeltasMade):
        return _OVERHEAD + sum(_OVERHEAD + len(delta.text) for delta in notice.deltas)
    if isinstance(notice, RunsChanged):
        return _OVERHEAD * (1 + len(notice.runs))
    if isinstance(notice, FencesRaised):
        return _OVERHEAD + 2 * _OVERHEAD * len(notice.fences)
    return _OVERHEAD


def encoded(origin: str, notices: Iterable[Notice]) -> bytes:
    """What one replica tells on one channel."""
    return pb.NoticeBatch(
        origin=origin, notices=[_message(notice) for notice in notices]
    ).SerializeToString()


def decoded(data: bytes, own_origin: str) -> Iterator[Notice]:
    """What another replica told; nothing if it was this one. Notices that this version does not
    know are left out. Raises DecodeError for what is no batch of notices."""
    batch = pb.NoticeBatch.FromString(data)
    if batch.origin == own_origin:
        return
    for message in batch.notices:
        kind = message.WhichOneof("kind")
        if kind == "events":
            yield _events_committed(message.events)
        elif kind == "text":
            yield _deltas_made(message.text)
        elif kind == "runs":
            yield _runs_changed(message.runs)
        elif kind == "fences":
            yield _fences_raised(message.fences)
        elif kind == "wanted_text":
            wanted = message.wanted_text
            yield TextWanted(batch.origin, wanted.tenant, wanted.conversation_id)
        elif kind == "deletion":
            gone = message.deletion
            yield ConversationDeleted(gone.tenant, gone.conversation_id)


def _message(notice: Notice) -> pb.Notice:
    if isinstance(notice, EventsCommitted):
        return pb.Notice(events=_noticed_events(notice))
    if isinstance(notice, DeltasMade):
        return pb.Notice(text=_noticed_text(notice))
    if isinstance(notice, RunsChanged):
        return pb.Notice(runs=_noticed_runs(notice))
    if isinstance(notice, FencesRaised):
        return pb.Notice(fences=_noticed_fences(notice))
    if isinstance(notice, TextWanted):
        wanted = pb.WantedText(tenant=notice.tenant, conversation_id=notice.conversation_id)
        return pb.Notice(wanted_text=wanted)
    if isinstance(notice, ConversationDeleted):
        gone = pb.NoticedDeletion(tenant=notice.tenant, conversation_id=notice.conversation_id)
        return pb.Notice(deletion=gone)
    raise TypeError(f"{type(notice).__name__} is for listeners of one replica")


def _noticed_events(notice: EventsCommitted) -> pb.NoticedEvents:
    return pb.NoticedEvents(
        tenant=notice.tenant,
        conversation_id=notice.conversation_id,
        head_sequence=notice.head.sequence,
        oldest_sequence=notice.head.oldest,
        active=notice.head.active,
        first_sequence=notice.first_sequence,
        events=[
            pb.NoticedEvent(
                sequence=event.sequence,
                kind=event.kind,
                run_id=event.run_id,
                agent=event.agent,
                message_id=event.message_id,
                turn=event.turn,
                data=event.data,
            )
            for event in notice.events
        ],
        message_ids=notice.message_ids,
        ended_turns=[pb.EndedTurn(run_id=run_id, turn=turn) for run_id, turn in notice.ended_turns],
    )


def _events_committed(message: pb.NoticedEvents) -> EventsCommitted:
    return EventsCommitted(
        message.tenant,
        message.conversation_id,
        Head(message.head_sequence, message.oldest_sequence, message.active),
        [
            StoredEvent(
                sequence=event.sequence,
                kind=event.kind,
                run_id=event.run_id,
                agent=event.agent,
                message_id=event.message_id,
                turn=event.turn,
                data=event.data,
            )
            for event in message.events
        ],
        list(message.message_ids),
        [(ended.run_id, ended.turn) for ended in message.ended_turns],
        message.first_sequence,
    )


def _noticed_text(notice: DeltasMade) -> pb.NoticedText:
    text = pb.NoticedText(tenant=notice.tenant, conversation_id=notice.conversation_id)
    growing: pb.GrowingMessage | None = None
    for delta in notice.deltas:
        if growing is None or not _continues(growing, delta):
            growing = text.messages.add(
                message_id=delta.message_id,
                run_id=delta.run_id,
                turn=delta.turn,
                agent=delta.agent,
                fence=delta.fence,
            )
        growing.pieces.add(
            kind=delta.kind,
            text=delta.text,
            first_index=delta.first_index,
            last_index=delta.last_index,
            after_sequence=delta.after_sequence,
            tool=delta.tool,
        )
    return text


def _continues(growing: pb.GrowingMessage, delta: LiveDelta) -> bool:
    return (
        growing.message_id == delta.message_id
        and growing.fence == delta.fence
        and growing.run_id == delta.run_id
        and growing.turn == delta.turn
        and growing.agent == delta.agent
    )


def _deltas_made(message: pb.NoticedText) -> DeltasMade:
    deltas = [
        LiveDelta(
            run_id=growing.run_id,
            turn=growing.turn,
            message_id=growing.message_id,
            agent=growing.agent,
            kind=piece.kind,
            text=piece.text,
            fence=growing.fence,
            first_index=piece.first_index,
            last_index=piece.last_index,
            after_sequence=piece.after_sequence,
            tool=piece.tool,
        )
        for growing in message.messages
        for piece in growing.pieces
    ]
    return DeltasMade(message.tenant, message.conversation_id, deltas)


def _noticed_runs(notice: RunsChanged) -> pb.NoticedRuns:
    return pb.NoticedRuns(
        runs=[
            pb.NoticedRun(
                run_id=run.run_id,
                status=conversation_pb2.RunStatus.ValueType(run.status),
                fence=run.fence,
                lease_worker=run.lease_worker,
            )
            for run in notice.runs
        ]
    )


def _runs_changed(message: pb.NoticedRuns) -> RunsChanged:
    runs: Sequence[ChangedRun] = [
        ChangedRun(run.run_id, RunStatus(run.status), run.fence, run.lease_worker)
        for run in message.runs
        if run.status in _KNOWN_STATUSES
    ]
    return RunsChanged(runs)


def _noticed_fences(notice: FencesRaised) -> pb.NoticedFences:
    return pb.NoticedFences(
        fences=[
            pb.NoticedFence(
                tenant=raised.tenant,
                conversation_id=raised.conversation_id,
                run_id=raised.run_id,
                fence=raised.fence,
                reason=raised.reason,
                raised_at=timestamp(raised.raised_at),
                worker_id=raised.worker_id,
                rests=raised.rests,
            )
            for raised in notice.fences
        ]
    )


def _fences_raised(message: pb.NoticedFences) -> FencesRaised:
    return FencesRaised(
        [
            RaisedFence(
                raised.tenant,
                raised.conversation_id,
                raised.run_id,
                raised.fence,
                raised.reason,
                instant(raised.raised_at),
                raised.worker_id,
                raised.rests,
            )
            for raised in message.fences
        ]
    )
