"""Conversations on a storage without servers: what is done to their histories, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agentmesh_conversation_store.codec.events import worker_event
from agentmesh_conversation_store.domain.conversations import SendMessage
from agentmesh_conversation_store.domain.events import StoredEvent, UserMessage, WorkerEvent
from agentmesh_conversation_store.domain.forks import Fork
from agentmesh_conversation_store.domain.history import DeleteConversation
from agentmesh_conversation_store.domain.ledger import TenantPolicy
from agentmesh_conversation_store.domain.model import (
    SECOND,
    Checkpoint,
    ConversationView,
    RunStatus,
    Strategy,
)
from agentmesh_conversation_store.domain.turns import CommitTurn, TurnOutcome
from agentmesh_conversation_store.domain.updating import UpdateConversation
from agentmesh_conversation_store.retention import Retention
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.sql.plan import Fetch

from services.conversation_store.tests.support import (
    ManualClock,
    fresh,
    message_event,
    start_command,
)

LEASE = 60 * SECOND
TABLES = (
    "conversations",
    "conversation_facts",
    "conversation_agents",
    "conversation_grants",
    "runs",
    "events",
    "inputs",
    "steps",
    "committed_turns",
    "checkpoints",
    "message_words",
    "blob_references",
    "workspace_blobs",
    "approvals",
    "milestones",
    "shared_history",
    "removals",
)


class NoBlobs:
    """Nobody to collect for."""

    def __init__(self) -> None:
        self.collected: list[str] = []

    async def collect(self, tenant: str, digests: Sequence[str]) -> int:
        """Remembers."""
        self.collected += digests
        return 0


class World:
    """A storage, and what is done to it."""

    def __init__(self, storage: Storage, clock: ManualClock) -> None:
        self.storage = storage
        self.clock = clock
        self.blobs = NoBlobs()
        self.retention = Retention(storage, self.blobs, look_seconds=1, poll_seconds=1)

    async def start(self, **changes: Any) -> str:
        """A conversation, and its id."""
        view = await self.storage.execute(start_command(max_rounds=1000, **changes))
        return view.conversation.conversation_id

    async def view(self, name: str) -> ConversationView:
        """As it is shown."""
        return await self.storage.conversation("acme", name)

    async def log(self, name: str) -> list[StoredEvent]:
        """All of it that is there, read in small pages."""
        view = await self.view(name)
        found: list[StoredEvent] = []
        position = view.conversation.oldest_sequence - 1
        while position < view.conversation.head_sequence:
            page = await self.storage.events("acme", name, position, 7, 10**9)
            assert page, (name, position, view)
            found += page
            position = page[-1].sequence
        return found

    async def turn(
        self,
        name: str,
        said: str = "words",
        base: str = "",
        events: Sequence[WorkerEvent] = (),
        **changes: Any,
    ) -> TurnOutcome:
        """A turn of the run under way, which says something, or nothing, and leaves a checkpoint.
        It has read all inputs; `changes` replace fields of its commit."""
        (run,) = await self.storage.grant({"w": 1}, LEASE)
        assert run.conversation_id == name
        checkpoint = Checkpoint(fresh("ckpt"), run.run_id, run.turn + 1, b"state", base_id=base)
        words = [worker_event(message_event(fresh("msg"), said))] if said else []
        command = CommitTurn(
            "acme",
            name,
            run.run_id,
            run.fence,
            run.turn + 1,
            {},
            RunStatus.WAITING,
            checkpoint=checkpoint,
            last_input_sequence=run.inbox_head,
            events=[*words, *events],
        )
        return await self.storage.execute(replace(command, **changes))

    async def say(
        self, name: str, text: str = "hi", strategy: Strategy = Strategy.AFTER_TURN
    ) -> int:
        """A person says something."""
        message = UserMessage(fresh("msg"), "user", text, "alice")
        sent = await self.storage.execute(
            SendMessage("acme", name, message, strategy, fresh("run"), "")
        )
        return sent.sequence

    async def rounds(self, name: str, count: int) -> None:
        """So many messages, each answered by a turn of its own."""
        for number in range(count):
            if number:
                await self.say(name, f"question {number}")
            await self.turn(name, f"answer {number}")

    async def fork(self, name: str, at: int = 0) -> str:
        """A fork, and its id."""
        wanted = Fork("acme", name, at, fresh("conv"), fresh("run"), "alice")
        view = await self.storage.fork(wanted)
        assert isinstance(view, ConversationView)
        return view.conversation.conversation_id

    async def delete(self, name: str) -> None:
        """Deletes."""
        await self.storage.execute(DeleteConversation("acme", name))

    async def limit(self, **limits: Any) -> None:
        """The tenant's policy."""
        await self.storage.put_tenant_policy(TenantPolicy("acme", **limits), "")

    async def keep(self) -> None:
        """Retention and removal, all of it."""
        await self.retention.apply()
        await self.retention.remove_all()

    async def hold(self, name: str, on: bool = True) -> None:
        """Puts under legal hold."""
        await self.storage.execute(
            UpdateConversation("acme", name, None, None, None, "", legal_hold=on)
        )

    async def rows(self) -> dict[str, int]:
        """How many rows each table has that belongs to conversations."""
        return {name: await self._count(name) for name in TABLES}

    async def _count(self, table: str) -> int:
        def plan() -> Any:
            ((count,),) = yield Fetch(f"SELECT count(*) FROM {table}")  # noqa: S608 - our names
            return count

        storage: Any = self.storage
        return int(await storage._read(("*",), plan()))
