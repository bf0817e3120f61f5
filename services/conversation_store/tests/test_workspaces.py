"""The states of a conversation's files on each database: what turns, people, forks and deletion
make of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from agentmesh.conversation.v1 import event_pb2
from agentmesh_conversation_store.domain.attempts import Tick
from agentmesh_conversation_store.domain.conversations import (
    CancelConversation,
    PauseConversation,
    ResumeConversation,
)
from agentmesh_conversation_store.domain.model import (
    Checkpoint,
    Conversation,
    EndReason,
    Origin,
    Run,
    RunStatus,
    StepKind,
    Strategy,
)
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.workspaces import (
    Manifest,
    SaveWorkspace,
    WorkspaceChange,
)

from services.conversation_store.tests.histories import LEASE, World
from services.conversation_store.tests.support import fresh
from services.conversation_store.tests.work import RETRIES, begin, commit, record

pytestmark = pytest.mark.asyncio


def digest(name: str) -> str:
    """A digest that stands for something of that name."""
    return hashlib.sha256(name.encode()).hexdigest()


def manifest(name: str, *also: str) -> Manifest:
    """One whose files lie in itself and in other blobs."""
    return Manifest(digest(name), tuple((digest(each), 10) for each in (name, *also)))


async def files(world: World, name: str) -> Conversation:
    """Where the files stand."""
    return (await world.view(name)).conversation


async def granted(world: World) -> Run:
    """The turn that is due, under a lease."""
    (run,) = await world.storage.grant({"w": 1}, LEASE)
    return run


async def tool_step(
    world: World, run: Run, key: str, change: WorkspaceChange | None, address: str = "here:1"
) -> int:
    """A recorded tool call that changed files; the generation that it made."""
    claim = begin(run, key, kind=StepKind.TOOL, origin=Origin.TOOL_RUNNER, runner_address=address)
    await world.storage.execute(claim)
    recorded = await world.storage.execute(
        record(run, key, origin=Origin.TOOL_RUNNER, workspace=change)
    )
    return recorded.workspace_generation


async def committed(world: World, run: Run, status: RunStatus = RunStatus.RUNNABLE) -> str:
    """Commits with a checkpoint, and says which."""
    checkpoint = Checkpoint(fresh("ckpt"), run.run_id, run.turn + 1, b"state")
    outcome = await world.storage.execute(
        commit(run, status=status, checkpoint=checkpoint, last_input_sequence=run.inbox_head)
    )
    return outcome.checkpoint_id


async def writing_turn(
    world: World, number: int, base: int, status: RunStatus = RunStatus.RUNNABLE
) -> str:
    """A committed turn whose tool call makes manifest "m<number>"."""
    run = await granted(world)
    await tool_step(world, run, f"call_{number}", WorkspaceChange(base, manifest(f"m{number}")))
    return await committed(world, run, status)


async def events_of(world: World, name: str, kind: str) -> list[event_pb2.Event]:
    """All of one kind."""
    log = await world.log(name)
    return [event_pb2.Event.FromString(event.data) for event in log if event.kind == kind]


async def kept_blobs(world: World, *names: str) -> set[str]:
    """Which of the blobs of these names anything refers to."""
    found = await world.storage.referenced_blobs("acme", [digest(name) for name in names])
    return {name for name in names if digest(name) in found}


async def test_a_recorded_call_moves_the_files_and_the_commit_names_them(world: World) -> None:
    name = await world.start()
    run = await granted(world)
    assert await tool_step(world, run, "c1", WorkspaceChange(0, manifest("m1"))) == 1
    assert await tool_step(world, run, "c2", None) == 0
    assert await tool_step(world, run, "c3", WorkspaceChange(1, manifest("m2", "m1"))) == 2
    at = await files(world, name)
    assert (at.workspace_generation, at.workspace_manifest) == (2, digest("m2"))
    assert at.kept_manifest == ""
    checkpoint_id = await committed(world, run)
    at = await files(world, name)
    assert (at.kept_generation, at.kept_manifest) == (2, digest("m2"))
    (stored,) = await world.storage.checkpoints("acme", [checkpoint_id])
    assert stored.workspace_generation == 2
    (event,) = await events_of(world, name, "turn_committed")
    assert event.turn_committed.workspace_generation == 2
    (turn,) = await world.storage.granted_turns([await granted(world)], 0)
    assert (turn.workspace.generation, turn.workspace.manifest) == (2, digest("m2"))
    assert turn.runner_address == "here:1"


async def test_a_change_of_another_generation_is_refused_with_the_record(world: World) -> None:
    name = await world.start()
    run = await granted(world)
    await tool_step(world, run, "c1", WorkspaceChange(0, manifest("m1")))
    head = (await files(world, name)).head_sequence
    with pytest.raises(Rejection) as refused:
        await tool_step(world, run, "c2", WorkspaceChange(0, manifest("m2")))
    assert refused.value.reason is Reason.WORKSPACE_MOVED
    assert refused.value.metadata == {"generation": "1", "manifest_digest": digest("m1")}
    at = await files(world, name)
    assert (at.head_sequence, at.workspace_manifest) == (head, digest("m1"))


async def test_the_same_record_again_moves_nothing(world: World) -> None:
    name = await world.start()
    run = await granted(world)
    await tool_step(world, run, "c1", WorkspaceChange(0, manifest("m1")))
    again = record(
        run, "c1", origin=Origin.TOOL_RUNNER, workspace=WorkspaceChange(0, manifest("m1"))
    )
    assert (await world.storage.execute(again)).workspace_generation == 0
    assert (await files(world, name)).workspace_generation == 1


async def test_a_failed_attempt_keeps_the_files_of_recorded_calls(world: World) -> None:
    name = await world.start()
    run = await granted(world)
    await tool_step(world, run, "c1", WorkspaceChange(0, manifest("m1")))
    world.clock.advance(3600)
    (due,) = await world.storage.due(expired=True, limit=10)
    assert due.conversation_id == name
    await world.storage.execute(Tick("acme", name, run.run_id, RETRIES))
    again = await granted(world)
    claim = await world.storage.execute(
        begin(again, "c2", kind=StepKind.TOOL, origin=Origin.TOOL_RUNNER)
    )
    assert claim.workspace.manifest == digest("m1")
    assert not await events_of(world, name, "workspace_restored")


async def test_an_interrupted_turn_takes_its_files_back_and_says_so(world: World) -> None:
    name = await world.start()
    await writing_turn(world, 1, 0)
    run = await granted(world)
    await tool_step(world, run, "c2", WorkspaceChange(1, manifest("m2")))
    sequence = await world.say(name, "stop", Strategy.INTERRUPT)
    at = await files(world, name)
    assert (at.workspace_generation, at.workspace_manifest) == (3, digest("m1"))
    (event,) = await events_of(world, name, "workspace_restored")
    told = event.workspace_restored
    assert (told.generation, told.restored_generation, told.previous_generation) == (3, 1, 2)
    assert "Turn 2" in told.text
    (turn,) = await world.storage.granted_turns([await granted(world)], 0)
    assert [each.sequence for each in turn.inputs] == [event.sequence, sequence]


async def test_a_turn_that_wrote_nothing_is_given_up_without_a_word(world: World) -> None:
    name = await world.start()
    await writing_turn(world, 1, 0)
    run = await granted(world)
    await tool_step(world, run, "c2", None)
    await world.say(name, "stop", Strategy.INTERRUPT)
    assert (await files(world, name)).workspace_generation == 1
    assert not await events_of(world, name, "workspace_restored")


async def test_a_replaced_turn_takes_back_what_it_wrote(world: World) -> None:
    name = await world.start()
    await writing_turn(world, 1, 0)
    await writing_turn(world, 2, 1)
    await world.say(name, "otherwise", Strategy.REPLACE_TURN)
    at = await files(world, name)
    assert (at.workspace_manifest, at.kept_manifest) == (digest("m1"), digest("m1"))
    (event,) = await events_of(world, name, "workspace_restored")
    assert "Turn 2" in event.workspace_restored.text


async def test_after_a_failure_the_files_stay_until_a_run_goes_on(world: World) -> None:
    name = await world.start()
    await writing_turn(world, 1, 0)
    run = await granted(world)
    await tool_step(world, run, "c2", WorkspaceChange(1, manifest("m2")))
    await world.storage.execute(
        commit(run, status=RunStatus.FAILED, discard=True, end_reason=EndReason.MODEL_ERROR)
    )
    assert (await files(world, name)).workspace_manifest == digest("m2")
    await world.storage.execute(ResumeConversation("acme", name, fresh("run"), ""))
    assert (await files(world, name)).workspace_manifest == digest("m1")
    (event,) = await events_of(world, name, "workspace_restored")
    (turn,) = await world.storage.granted_turns([await granted(world)], 0)
    assert event.sequence in [each.sequence for each in turn.inputs]


async def test_a_message_after_a_cancel_goes_on_with_the_committed_files(world: World) -> None:
    name = await world.start()
    run = await granted(world)
    await tool_step(world, run, "c1", WorkspaceChange(0, manifest("m1")))
    await world.storage.execute(CancelConversation("acme", name, "enough"))
    await world.say(name, "go on")
    at = await files(world, name)
    assert (at.workspace_generation, at.workspace_manifest) == (2, "")


async def save(world: World, name: str, base: int, now: str, earlier: Sequence[str]) -> None:
    at = await files(world, name)
    bases = (at.kept_generation, at.before_generation)
    await world.storage.execute(
        SaveWorkspace(
            "acme",
            name,
            WorkspaceChange(base, manifest(now)),
            [
                WorkspaceChange(of, manifest(each) if each else Manifest())
                for of, each in zip(bases, earlier, strict=True)
            ],
        )
    )


async def test_what_people_write_outlives_a_turn_that_is_given_up(world: World) -> None:
    name = await world.start()
    await writing_turn(world, 1, 0)
    run = await granted(world)
    await tool_step(world, run, "c2", WorkspaceChange(1, manifest("m2")))
    await save(world, name, 2, "m2+data", ["m1+data", "data"])
    with pytest.raises(Rejection) as refused:
        await save(world, name, 2, "late", ["late", "late"])
    assert refused.value.reason is Reason.WORKSPACE_MOVED
    await world.say(name, "use the data", Strategy.INTERRUPT)
    at = await files(world, name)
    assert (at.workspace_generation, at.workspace_manifest) == (4, digest("m1+data"))
    assert await kept_blobs(world, "m1", "m2", "m2+data", "m1+data", "data") == {
        "m1",  # of the place in the log after turn 1
        "m1+data",
        "data",
    }


async def test_a_fork_has_the_files_of_its_point(world: World) -> None:
    name = await world.start()
    await writing_turn(world, 1, 0)
    place = (await files(world, name)).head_sequence
    await writing_turn(world, 2, 1)
    run = await granted(world)
    await tool_step(world, run, "c3", WorkspaceChange(2, manifest("m3")))
    early, late = await world.fork(name, place), await world.fork(name)
    assert (await files(world, early)).workspace_manifest == digest("m1")
    assert (await files(world, late)).workspace_manifest == digest("m2")
    assert (await files(world, name)).workspace_manifest == digest("m3")
    await world.say(early, "go on")
    assert not await events_of(world, early, "workspace_restored")


async def test_what_forks_share_is_kept_until_nobody_names_it(world: World) -> None:
    name = await world.start()
    await writing_turn(world, 1, 0)
    place = (await files(world, name)).head_sequence
    await writing_turn(world, 2, 1, RunStatus.WAITING)
    fork = await world.fork(name, place)
    await world.delete(name)
    await world.keep()
    assert await kept_blobs(world, "m1", "m2") == {"m1"}
    assert digest("m2") in world.blobs.collected
    await world.delete(fork)
    await world.keep()
    assert not await kept_blobs(world, "m1", "m2")
    assert digest("m1") in world.blobs.collected
    assert (await world.rows())["workspace_blobs"] == 0


async def test_retention_frees_the_files_of_places_that_are_gone(world: World) -> None:
    name = await world.start()
    for number in range(1, 6):
        await writing_turn(world, number, number - 1, RunStatus.WAITING)
        await world.say(name)
    assert len(await kept_blobs(world, *(f"m{n}" for n in range(1, 6)))) == 5
    await world.limit(retention_events=4)
    await world.keep()
    kept = await kept_blobs(world, *(f"m{n}" for n in range(1, 6)))
    assert {"m4", "m5"} <= kept
    assert "m1" not in kept


async def test_files_between_two_commits_are_freed_at_once(world: World) -> None:
    await world.start()
    run = await granted(world)
    for number in range(1, 4):
        change = WorkspaceChange(number - 1, manifest(f"m{number}", "shared"))
        await tool_step(world, run, f"c{number}", change)
    assert await kept_blobs(world, "m1", "m2", "m3", "shared") == {"m3", "shared"}


async def test_who_holds_files_of_a_conversation_that_waits_is_told_once(world: World) -> None:
    name = await world.start()
    await writing_turn(world, 1, 0)
    assert (await files(world, name)).runner_address == "here:1"
    since = await world.storage.now()
    await world.turn(name)
    (told,) = await world.storage.raised_fences(since)
    assert (told.rests, told.conversation_id) == (True, name)
    assert (await files(world, name)).runner_address == ""
    await world.say(name)
    await world.turn(name)
    assert len(await world.storage.raised_fences(since)) == 1


async def test_a_pause_raises_the_fence_and_says_that_nothing_need_be_held(world: World) -> None:
    name = await world.start()
    await writing_turn(world, 1, 0)
    since = await world.storage.now()
    await world.storage.execute(PauseConversation("acme", name))
    (told,) = await world.storage.raised_fences(since)
    assert (told.rests, told.reason) == (True, "paused")
