"""The files of a conversation, as generations.

A conversation knows three states of its files: as they are now, as its root run's newest committed
turn left them, and as the turn before that one did. A turn that is given up takes back what it
wrote, by going to one of the latter two. What people write counts for all three, so that it
outlives such a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .changes import Decision, Loaded, Scope, Transition
from .copying import replace
from .events import WorkspaceRestored
from .model import Conversation, Instant, Origin, Run, WorkspaceBlob, WorkspaceState
from .rejections import Reason, Rejection, invalid

UNNAMED = "-"
"""Stands for the address of a tool_runner that has none."""

AS_LAST_COMMITTED = (
    "The files of the workspace were put back to what they were after the last turn that was "
    "completed. What was written to it after that turn is gone."
)


def as_before_turn(turn: int) -> str:
    """What a team is told whose turn was given up or taken back."""
    return (
        f"Turn {turn} was given up. The files of the workspace were put back to what they were "
        f"before it: what turn {turn} wrote is gone."
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    """Names every file. `blobs` are the (digest, size) of all that its files lie in, itself
    included; both are empty for no files."""

    digest: str = ""
    blobs: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class WorkspaceChange:
    """What becomes of the files that were of generation `base`."""

    base: int
    manifest: Manifest


def now_of(conversation: Conversation) -> WorkspaceState:
    """The files as they are."""
    return WorkspaceState(conversation.workspace_generation, conversation.workspace_manifest)


def earlier_of(conversation: Conversation) -> tuple[WorkspaceState, WorkspaceState]:
    """The files after the newest committed turn of the root run, and after the one before."""
    return (
        WorkspaceState(conversation.kept_generation, conversation.kept_manifest),
        WorkspaceState(conversation.before_generation, conversation.before_manifest),
    )


def change(transition: Transition, wanted: WorkspaceChange) -> int:
    """Gives the files their next generation, and says which."""
    _require_base(transition.conversation, wanted)
    return _move(transition, wanted.manifest.digest, wanted.manifest.blobs)


def keep(transition: Transition) -> None:
    """A turn of the root run was committed: its files stand."""
    conversation = transition.conversation
    transition.replaced_manifests.append(conversation.before_manifest)
    transition.conversation = replace(
        conversation,
        before_generation=conversation.kept_generation,
        before_manifest=conversation.kept_manifest,
        kept_generation=conversation.workspace_generation,
        kept_manifest=conversation.workspace_manifest,
    )


def go_back(transition: Transition, run: Run, text: str, origin: Origin) -> Run:
    """Puts the files to where the root run's checkpoint has them, unless they are there, and lets
    the run's next turn read of it. Runs below the root have their files in common with others, so
    that nothing is taken back for them."""
    conversation = transition.conversation
    if not run.is_root or conversation.workspace_manifest == conversation.kept_manifest:
        return run
    previous = conversation.workspace_generation
    restored = conversation.kept_generation
    generation = _move(transition, conversation.kept_manifest, ())
    transition.conversation = replace(transition.conversation, kept_generation=generation)
    told = WorkspaceRestored(generation, restored, previous, text)
    return transition.add_input(run.run_id, transition.append(told, origin, run.run_id, run.turn))


def go_before(transition: Transition, run: Run, text: str, origin: Origin) -> Run:
    """As `go_back`, to the state before the newest committed turn, which is taken back."""
    conversation = transition.conversation
    transition.replaced_manifests.append(conversation.kept_manifest)
    transition.conversation = replace(
        conversation,
        kept_generation=conversation.before_generation,
        kept_manifest=conversation.before_manifest,
    )
    return go_back(transition, run, text, origin)


def _move(transition: Transition, manifest: str, blobs: Sequence[tuple[str, int]]) -> int:
    conversation = transition.conversation
    generation = conversation.workspace_generation + 1
    transition.replaced_manifests.append(conversation.workspace_manifest)
    transition.conversation = replace(
        conversation, workspace_generation=generation, workspace_manifest=manifest
    )
    transition.records += _named(conversation.conversation_id, manifest, blobs)
    return generation


def _named(
    conversation_id: str, manifest: str, blobs: Sequence[tuple[str, int]]
) -> list[WorkspaceBlob]:
    return [WorkspaceBlob(manifest, digest, conversation_id, size) for digest, size in blobs]


def _require_base(conversation: Conversation, wanted: WorkspaceChange) -> None:
    present = conversation.workspace_generation
    if wanted.base != present:
        raise moved(conversation, f"is of generation {present}, not {wanted.base}")


def moved(conversation: Conversation, how: str) -> Rejection:
    """The files are not what a change was made of."""
    return Rejection(
        Reason.WORKSPACE_MOVED,
        f"the workspace of {conversation.conversation_id} {how}",
        generation=str(conversation.workspace_generation),
        manifest_digest=conversation.workspace_manifest,
    )


@dataclass(frozen=True, slots=True)
class SaveWorkspace:
    """A change that no run makes. `earlier` is the same change to the states that turns go back
    to; each has the generation of its base."""

    tenant: str
    conversation_id: str
    change: WorkspaceChange
    earlier: Sequence[WorkspaceChange]

    @property
    def scope(self) -> Scope:
        """The conversation."""
        return Scope(self.tenant, self.conversation_id)

    def decide(self, loaded: Loaded, now: Instant) -> Decision[WorkspaceState]:
        """Refused if any of the states is another one by now."""
        transition = Transition(loaded, self.scope, now)
        states = earlier_of(transition.conversation)
        if len(self.earlier) != len(states):
            raise invalid("earlier", f"must be {len(states)} changes, one for each earlier state")
        for state, wanted in zip(states, self.earlier, strict=True):
            if wanted.base != state.generation:
                raise moved(transition.conversation, "has other earlier states")
        change(transition, self.change)
        kept, before = (wanted.manifest for wanted in self.earlier)
        transition.replaced_manifests += [state.manifest for state in states]
        for manifest in (kept, before):
            transition.records += _named(self.conversation_id, manifest.digest, manifest.blobs)
        transition.conversation = replace(
            transition.conversation, kept_manifest=kept.digest, before_manifest=before.digest
        )
        return Decision(transition.done(), now_of(transition.conversation))
