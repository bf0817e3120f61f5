"""Two tenants who use the same ids for everything that allows it, in one database.

Both are made by the same script, so that each can be compared with what it is alone. What it says
and counts differs between them, and so does what became of the same conversation: one tenant cut
the log and shares it, the other one did not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from agentmesh_conversation_store.codec.events import worker_event
from agentmesh_conversation_store.domain.access import Access, Grantee
from agentmesh_conversation_store.domain.approvals import AskedApproval
from agentmesh_conversation_store.domain.conversations import SendMessage
from agentmesh_conversation_store.domain.events import UserMessage, WorkerEvent
from agentmesh_conversation_store.domain.forks import Fork
from agentmesh_conversation_store.domain.keys import ApiKey
from agentmesh_conversation_store.domain.ledger import AuditRecord, TenantPolicy
from agentmesh_conversation_store.domain.model import (
    SECOND,
    Checkpoint,
    ConversationFacts,
    Origin,
    Run,
    RunStatus,
    StepKind,
    Strategy,
)
from agentmesh_conversation_store.domain.search import words_of
from agentmesh_conversation_store.domain.sharing import ShareConversation
from agentmesh_conversation_store.domain.usage import Budget, Usage
from agentmesh_conversation_store.domain.workspaces import Manifest, WorkspaceChange
from agentmesh_conversation_store.storage.catalog import DocumentWrite, NewDocument
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.requests import Request
from agentmesh_conversation_store.storage.sql.plan import Each, Fetch
from agentmesh_conversation_store.storage.transfer import Arrivals
from meshkit.roles import Role

from services.conversation_store.tests.support import (
    ManualClock,
    asks_event,
    message_event,
    start_command,
)
from services.conversation_store.tests.work import begin, commit, record

LEASE = 3600 * SECOND
DAY = 24 * 3600
NAMES = ("acme", "blue")
SHARED = "a" * 64
"""The digest of a blob that both refer to."""
MANIFEST = "d" * 64
"""The digest of a manifest that names files of both."""


@dataclass(frozen=True, slots=True)
class Ids:
    """Everything that either tenant has, to be asked for as either."""

    conversations: tuple[str, ...]
    runs: tuple[str, ...]
    approvals: tuple[str, ...]
    documents: tuple[str, ...]
    keys: tuple[str, ...]
    checkpoints: tuple[str, ...]
    digests: tuple[str, ...]
    manifests: tuple[str, ...]
    words: tuple[str, ...]


def _both(*shared: str, own: str) -> tuple[str, ...]:
    return (*shared, *(f"{own}_{name}" for name in NAMES))


EVERYTHING = Ids(
    conversations=_both("conv_a", "conv_b", "conv_f", "conv_i", "conv_q", own="conv"),
    runs=tuple(f"run_{what}_{name}" for what in (*"abfiq", "own") for name in NAMES),
    approvals=_both("appr_q", own="appr"),
    documents=_both("doc", own="doc"),
    keys=_both("key", own="key"),
    checkpoints=_both("ckpt_1", "ckpt_2", own="ckpt"),
    digests=(SHARED, "b" * 64, "c" * 64, MANIFEST),
    manifests=(MANIFEST, SHARED),
    words=("common", "onlyb", *NAMES),
)


class Tenant:
    """One of them, with what it does."""

    def __init__(self, storage: Storage, clock: ManualClock, name: str) -> None:
        self.storage, self.clock, self.name = storage, clock, name
        self.number = NAMES.index(name)
        self.own = ("b" if self.number else "c") * 64

    async def settle(self) -> None:
        """Does all of it."""
        await self._limits()
        await self._catalog()
        await self._long()
        await self._fork()
        await self._asking()
        await self._busy()
        await self._own()
        await self._import()

    async def _limits(self) -> None:
        policy = TenantPolicy(
            self.name,
            max_active_runs=50 + self.number,
            daily_budget=Budget(max_tokens=10**7 + self.number),
            retention_events=6,
        )
        await self.storage.put_tenant_policy(policy, "")
        at = self.clock.now
        records = [
            AuditRecord(
                self.name, "batch:0", at, f"somebody of {self.name}", "M", "r", "OK", "peer"
            ),
        ]
        request: Request[None] = Request(self.name, "audit", b"d", lambda _: self.name.encode())
        await self.storage.append_audit(records, request)

    async def _catalog(self) -> None:
        for version in range(1 + self.number):
            documents = [
                NewDocument(1, name, f"{self.name} {version}".encode(), f"{self.name}{version}")
                for name in ("doc", f"doc_{self.name}")
            ]
            await self.storage.put_documents(self.name, DocumentWrite(documents))
        for name in ("key", f"key_{self.name}"):
            key = ApiKey(name, self.name, Role.OPERATOR, f"key of {self.name}", self.clock.now)
            await self.storage.add_key(key, f"{self.name} {name}".encode())

    async def start(self, what: str, conversation_id: str = "") -> str:
        """A conversation that says whose it is."""
        conversation_id = conversation_id or f"conv_{what}"
        command = start_command(
            self.name,
            conversation_id=conversation_id,
            run_id=f"run_{what}_{self.name}",
            message_id=f"msg_{conversation_id}",
            facts=ConversationFacts(
                task=f"common only{what} {self.name}", agents=("writer", self.name)
            ),
            definition=("digest", self.name.encode()),
            max_rounds=1000,
        )
        await self.storage.execute(command)
        guest = Grantee(f"{self.name} guest")
        await self.storage.execute(
            ShareConversation(self.name, conversation_id, guest, Access.WRITE, "alice")
        )
        return conversation_id

    async def turn(self, number: int, *events: WorkerEvent, base: str = "", **changes: Any) -> Run:
        """A turn of the run that waits for one."""
        (run,) = await self.storage.grant({"w": 1}, LEASE)
        assert run.tenant == self.name
        tokens = 100 + 900 * self.number
        await self.storage.execute(begin(run, attempt_id="attempt"))
        said = message_event(f"msg_{run.conversation_id}_{number}", f"common {self.name} {number}")
        blobs = ((SHARED, 7), (self.own, 8))
        spoken = replace(worker_event(said, blobs), agent=self.name)
        usage = Usage(input_tokens=tokens, model_calls=1)
        await self.storage.execute(
            record(run, result=self.name.encode(), events=[spoken, *events], usage=usage)
        )
        checkpoint_id = (
            f"ckpt_{number}"
            if run.conversation_id == "conv_a"
            else (f"ckpt_{run.conversation_id}_{number}")
        )
        state = Checkpoint(checkpoint_id, run.run_id, run.turn + 1, self.name.encode() * number)
        kept = replace(state, base_id=base)
        await self.storage.execute(
            commit(run, checkpoint=kept, last_input_sequence=run.inbox_head, **changes)
        )
        return run

    async def say(self, conversation_id: str, number: int) -> None:
        """A person says something."""
        body = UserMessage(f"msg_{conversation_id}_u{number}", "user", f"more {self.name}", "alice")
        message = SendMessage(
            self.name, conversation_id, body, Strategy.AFTER_TURN, f"run_b{number}_{self.name}", ""
        )
        await self.storage.execute(message)

    async def _long(self) -> None:
        """conv_b: long enough to be cut, and cut by one of them."""
        name = await self.start("b")
        for number in range(1, 4):
            await self.turn(number, status=RunStatus.WAITING)
            if number < 3:
                await self.say(name, number)

    async def _fork(self) -> None:
        """conv_f: a fork of conv_b with one, a conversation of its own with the other."""
        if self.number == 0:
            await self.storage.fork(
                Fork(self.name, "conv_b", 0, "conv_f", f"run_f_{self.name}", "alice")
            )
            assert await self.storage.cut_history(self.name, "conv_b")
            return
        await self.start("f")
        await self.turn(1, status=RunStatus.WAITING)

    async def _busy(self) -> None:
        """conv_a: a turn given up, one under way, a message unread."""
        await self.start("a")
        await self.turn(1)
        await self.turn(2, base="ckpt_1")
        (run,) = await self.storage.grant({"w": 1}, LEASE)
        await self.storage.execute(begin(run, attempt_id="attempt"))
        await self.storage.execute(commit(run, discard=True, checkpoint=None))
        await self.say("conv_a", 9)
        (run,) = await self.storage.grant({"w": 1}, LEASE)
        await self.storage.execute(begin(run, attempt_id="attempt"))

    async def _own(self) -> None:
        """conv_<name>: has files."""
        await self.start("own", f"conv_{self.name}")
        (run,) = await self.storage.grant({"w": 1}, LEASE)
        await self.storage.execute(begin(run, kind=StepKind.TOOL, origin=Origin.TOOL_RUNNER))
        files = Manifest(MANIFEST, ((MANIFEST, 9), (SHARED, 7), (self.own, 8)))
        change = WorkspaceChange(0, files)
        await self.storage.execute(record(run, origin=Origin.TOOL_RUNNER, workspace=change))
        state = Checkpoint(f"ckpt_{run.conversation_id}_1", run.run_id, run.turn + 1, b"")
        await self.storage.execute(
            commit(
                run,
                checkpoint=state,
                status=RunStatus.WAITING,
                last_input_sequence=run.inbox_head,
            )
        )

    async def _asking(self) -> None:
        """conv_q: two questions open."""
        await self.start("q")
        questions = [_asks("appr_q", self), _asks(f"appr_{self.name}", self)]
        await self.turn(1, *questions, status=RunStatus.WAITING)

    async def _import(self) -> None:
        """conv_i: an import under way."""
        assert await self.storage.begin_import(self.name, "conv_i", f"run_i_{self.name}")
        arrivals = Arrivals(words=[(1, words_of(f"common {self.name}"))])
        await self.storage.add_arrivals(self.name, "conv_i", arrivals)


def _asks(approval_id: str, tenant: Tenant) -> WorkerEvent:
    event = asks_event(approval_id, tenant.clock.now + LEASE)
    asked = AskedApproval(
        approval_id, f"may {tenant.name}?", b"", tenant.clock.now + LEASE, Role.OPERATOR
    )
    return replace(event, approval=asked)


class Town:
    """A database, and who lives in it."""

    def __init__(self, storage: Storage, clock: ManualClock) -> None:
        self.storage, self.clock = storage, clock
        self._began = clock.now

    async def of(self, *names: str) -> None:
        """Nobody but these, from the beginning."""
        await self._let_everything_be_removed()
        for table in await self.tables():
            await self._do(Each(f"DELETE FROM {table} WHERE tenant <> ?", [("",)]))  # noqa: S608 - our names
        for name in names:
            self.clock.now = self._began
            await Tenant(self.storage, self.clock, name).settle()

    async def _let_everything_be_removed(self) -> None:
        """The audit log included."""
        if type(self.storage).__name__ == "SqliteStorage":
            found = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'audit_%'"
            for (name,) in await self._do(Fetch(found)):
                await self._do(Each(f"DROP TRIGGER {name}", [()]))
            return
        for table in ("audit_records", "audit_seals", "audit_cuts", "audit_cut_overs"):
            await self._do(Each(f"ALTER TABLE {table} DISABLE TRIGGER USER", [()]))

    async def rows(self, name: str) -> dict[str, list[str]]:
        """Every row of a tenant, by table."""
        found = {}
        for table in await self.tables():
            rows = await self._do(Fetch(f"SELECT * FROM {table} WHERE tenant = ?", (name,)))  # noqa: S608 - our names
            found[table] = sorted(str(tuple(row)) for row in rows)
        return found

    async def tables(self) -> list[str]:
        """Those that know tenants."""
        sql = (
            "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c"
            " WHERE m.type = 'table' AND c.name = 'tenant' ORDER BY 1"
            if type(self.storage).__name__ == "SqliteStorage"
            else "SELECT table_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND column_name = 'tenant' ORDER BY 1"
        )
        return [name for (name,) in await self._do(Fetch(sql))]

    async def _do(self, operation: Fetch | Each) -> Any:
        def plan() -> Any:
            return (yield operation)

        storage: Any = self.storage
        return await storage._write(("*",), lambda _: plan())
