"""Files of conversations rest in the store.

The store says which generation counts: with the claim of each tool call, and to whoever asks for a
person. An open workspace is brought to it before anything acts there, which costs nothing while it
was changed here only. What an action changed is uploaded and recorded together with it. If another
runner was faster, what it changed is brought in and the record is made again; where both changed
one file, the later record holds.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from meshkit.context import Principal, current_principal, find_capability
from meshkit.identity import principal_scope

from agentmesh_tool_runner.sandbox import trees
from agentmesh_tool_runner.sandbox.model import WorkspaceFullError, WorkspaceKey
from agentmesh_tool_runner.sandbox.mounted import Mounted
from agentmesh_tool_runner.sandbox.rest import Rest
from agentmesh_tool_runner.sandbox.snapshot import Entry

from .capture import capture, is_kept, store
from .laying import lay
from .manifest import NO_FILES, NO_STATE, Change, Manifest, MovedError, State, rebased
from .reading import Library
from .shelf import Shelf

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
Recorder = Callable[[Change | None], Awaitable[tuple[_Result, int]]]
"""Records what an action did with the change that it made, if it made one; answers with what comes
of it and the new generation. Raises MovedError."""
_STATES_KNOWN: Final = 10_000
_TRIES: Final = 8


@dataclass
class Notes:
    """What an open workspace was when it was last brought in line: its state, that state's
    manifest, and how the files looked."""

    state: State = NO_STATE
    manifest: Manifest = NO_FILES
    seen: dict[str, Entry] = field(default_factory=dict)
    captured: dict[str, Entry] = field(default_factory=dict)
    """How they looked when a change was made of them that is not recorded yet."""


class StoreRest(Rest):
    """See the module. `shelf` acts under the rights of the call that is served."""

    def __init__(self, shelf: Shelf, max_bytes: int) -> None:
        self._shelf = shelf
        self._max_bytes = max_bytes
        self._library = Library()
        self._states: OrderedDict[WorkspaceKey, State] = OrderedDict()
        self._owed: dict[WorkspaceKey, Principal] = {}
        """Who changed files that the store could not take yet."""

    def expect(self, key: WorkspaceKey, state: State) -> None:
        """The store said that this state counts. What it said later is not taken back."""
        known = self._states.pop(key, None)
        newer = known is not None and known.generation > state.generation
        self._states[key] = known if newer and known is not None else state
        while len(self._states) > _STATES_KNOWN:
            self._states.popitem(last=False)

    async def fill(self, key: WorkspaceKey, mounted: Mounted) -> None:
        mounted.notes = Notes()
        self._owed.pop(key, None)
        if key.temporary:
            return
        await self._ask(key)
        await self._bring(mounted, self._states[key])

    async def refresh(self, key: WorkspaceKey, mounted: Mounted) -> None:
        if key.temporary:
            return
        await self._ask(key)
        async with mounted.keeping:
            await self._bring(mounted, self._states[key])

    async def _ask(self, key: WorkspaceKey) -> None:
        """Learns which state counts; a worker was told with the claim of its call."""
        if find_capability() is None or key not in self._states:
            self.expect(key, (await self._shelf.head(key)).now)

    def may_be_new(self, key: WorkspaceKey) -> bool:
        return not key.temporary and key not in self._states

    async def is_settled(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        notes = mounted.notes
        if key.temporary or not isinstance(notes, Notes) or not mounted.files.small:
            return False
        known = self._states.get(key)
        if known is None or known.generation > notes.state.generation:
            return False
        try:
            entries = await mounted.files.look(trees.look_at_all, self._max_bytes)
        except WorkspaceFullError:
            return False
        return is_kept({entry.path: entry for entry in entries}, notes.seen, notes.manifest)

    async def still_counts(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        if mounted.notes is None:
            mounted.notes = Notes()
            self._owed.pop(key, None)
        self.expect(key, (await self._shelf.head(key)).now)
        return _is_of(_notes(mounted), self._states[key])

    async def keep(self, key: WorkspaceKey, mounted: Mounted) -> None:
        async def save(change: Change | None) -> tuple[None, int]:
            return None, 0 if change is None else await self._save(key, mounted, change)

        if key.temporary:
            return
        try:
            await self.record(key, mounted, save)
        except WorkspaceFullError:
            self._owed.pop(key, None)
            raise
        except Exception:
            self._owed[key] = current_principal()
            raise
        self._owed.pop(key, None)

    async def settle(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        owed_to = self._owed.get(key)
        if owed_to is None:
            return True
        try:
            # Under the rights of whoever changed the files, which the store looks at once more.
            with principal_scope(owed_to):
                await self.keep(key, mounted)
        except Exception as error:
            if self._shelf.is_passing(error):
                return False
            logger.warning("what was last done to the files of %s is lost: %s", key, error)
            self._owed.pop(key, None)
        return True

    def owes(self, key: WorkspaceKey) -> bool:
        return key in self._owed

    async def leave(self, key: WorkspaceKey, mounted: Mounted) -> bool:
        """All that counts is in the store already, but for what it could not take."""
        return await self.settle(key, mounted)

    async def forget(self, key: WorkspaceKey) -> None:
        self._states.pop(key, None)
        self._owed.pop(key, None)

    async def record(
        self, key: WorkspaceKey, mounted: Mounted, recorder: Recorder[_Result]
    ) -> _Result:
        """Has the present files recorded with the action that made them.

        Raises WorkspaceFullError, and what `recorder` raises.
        """
        async with mounted.keeping:
            for attempt in range(1, _TRIES + 1):
                change = await self._capture(key, mounted)
                try:
                    result, generation = await recorder(change)
                except MovedError as moved:
                    if attempt == _TRIES:
                        raise
                    self.expect(key, moved.state)
                    await self._bring(mounted, moved.state)
                    continue
                if change is not None:
                    self._recorded(key, mounted, State(generation, change.manifest.digest), change)
                return result
        raise AssertionError("unreachable")

    async def _capture(self, key: WorkspaceKey, mounted: Mounted) -> Change | None:
        notes = _notes(mounted)
        async with mounted.lock:
            captured = await capture(
                mounted,
                self._shelf,
                f"{key.tenant}/{key.conversation}",
                notes.manifest,
                notes.seen,
                self._max_bytes,
            )
        if captured.manifest is notes.manifest:
            notes.seen = captured.seen
            return None
        notes.captured = captured.seen
        return Change(notes.state.generation, captured.manifest)

    def _recorded(self, key: WorkspaceKey, mounted: Mounted, state: State, change: Change) -> None:
        mounted.notes = Notes(state, change.manifest, _notes(mounted).captured)
        self._library.add(change.manifest)
        self.expect(key, state)

    async def _bring(self, mounted: Mounted, state: State) -> None:
        notes = _notes(mounted)
        if _is_of(notes, state):
            return
        manifest = await self._library.manifest(self._shelf, state.digest)
        async with mounted.lock:
            seen = await lay(
                mounted, self._shelf, notes.manifest, notes.seen, manifest, self._max_bytes
            )
        mounted.notes = Notes(state, manifest, seen)

    async def _save(self, key: WorkspaceKey, mounted: Mounted, change: Change) -> int:
        """For a person: the same is done to the states that turns go back to."""
        before = _notes(mounted).manifest
        earlier = []
        for state in (await self._shelf.head(key)).earlier:
            manifest = await self._library.manifest(self._shelf, state.digest)
            if state.digest == before.digest:
                changed = change.manifest
            else:
                records = rebased(manifest, before, change.manifest)
                sizes = {**manifest.sizes, **change.manifest.sizes}
                name = f"{key.tenant}/{key.conversation}"
                changed = await store(self._shelf, name, records, sizes)
                self._library.add(changed)
            earlier.append(Change(state.generation, changed))
        return (await self._shelf.save(key, change, earlier)).generation


def _notes(mounted: Mounted) -> Notes:
    if not isinstance(mounted.notes, Notes):
        raise TypeError("the workspace was not filled")
    return mounted.notes


def _is_of(notes: Notes, state: State) -> bool:
    """True if the files are of that state, or newer; then that it counts is noted."""
    if state.generation < notes.state.generation:
        return True
    if state.digest == notes.state.digest:
        notes.state = state
        return True
    return False
