"""Gives audit records their places in their tenants' chains, and removes those that are old."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Sequence

from meshkit.tasks import stop

from .domain.audit_chain import Seal
from .domain.audit_keys import AuditKeys, SealingKey
from .domain.model import SECOND, Instant
from .domain.rejections import Reason, Rejection
from .identity import load_pepper
from .settings import StoreSettings
from .storage.audit import Removal
from .storage.interface import Storage

_log = logging.getLogger(__name__)

BATCH = 1000
_REMOVED_AT_ONCE = 1000
_LOOK_AROUND_SECONDS = 600
_NAMED = 3
_DAY = 24 * 3600 * SECOND


def sealing_keys(settings: StoreSettings) -> list[SealingKey]:
    """Those of AGENTMESH_AUDIT_KEY, and one made from what API keys are hashed with. The first one
    seals, all of them are good for verification, and none is ever in the database."""
    given = settings.audit_key.get_secret_value() if settings.audit_key else ""
    secrets = [secret.strip().encode() for secret in given.split(",") if secret.strip()]
    purpose = b"agentmesh/audit-seals/1"
    made = SealingKey(hmac.new(load_pepper(settings), purpose, hashlib.sha256).digest())
    return [*(SealingKey(hashlib.sha256(purpose + one).digest()) for one in secrets), made]


class AuditSealer:
    """A loop; replicas may run it at once. Each head is logged: whoever keeps the logs can tell
    later whether the newest seals of a chain were cut off. The sealer remembers them too, and does
    not go on with a chain that lacks one."""

    def __init__(
        self, storage: Storage, keys: AuditKeys, *, every: float, keep_days: int | None
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._every = every
        self._keep_days = keep_days
        self._known: dict[str, Seal] = {}
        self._told: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins."""
        self._task = asyncio.create_task(self._run(), name="audit-sealing")

    async def stop(self) -> None:
        """Ends, after what came in until now is sealed if the database lets it be."""
        if self._task is None:
            return
        await stop(self._task)
        try:
            async with asyncio.timeout(5):
                await self.seal_all()
        except (Rejection, TimeoutError) as error:
            _log.warning("audit records stay unsealed for now: %s", error)

    async def seal_all(self) -> Sequence[Seal]:
        """Seals all that is not sealed. What is wrong with one tenant's is no matter of others."""
        made: list[Seal] = []
        for tenant in await self._storage.tenants_to_seal():
            try:
                await self._seal(tenant, made)
            except Rejection as rejection:
                if rejection.reason is not Reason.CORRUPT:
                    raise
                self._report(tenant, f"nothing is added to the chain: {rejection.message}")
            except Exception:
                _log.exception("audit records stay unsealed", extra={"tenant": tenant})
        return made

    async def _seal(self, tenant: str, made: list[Seal]) -> None:
        more = True
        while more:
            done = await self._storage.seal_audit(
                tenant, self._keys, BATCH, self._known.get(tenant)
            )
            more = done.more
            if done.problem is not None:
                self._report(tenant, f"nothing is added to the chain: {done.problem}")
            if done.put_aside:
                ids = ", ".join(str(one.record_id) for one in done.put_aside[:_NAMED])
                self._report(
                    tenant, f"{len(done.put_aside)} records are not the store's, put aside: {ids}"
                )
            if done.seal is not None:
                made.append(done.seal)
                self._known[tenant] = done.seal
                _log.info("audit records sealed", extra=_as_head(done.seal))

    async def remove_old(self) -> int:
        """Removes what is older than it has to be kept; says how many records."""
        before = None
        if self._keep_days is not None:
            before = await self._storage.now() - self._keep_days * _DAY
        removed = 0
        for tenant in await self._storage.audited_tenants():
            more = True
            while more:
                done = await self._remove(tenant, before)
                removed += done.records
                more = done.problem is None and done.records > 0
                if done.problem is not None:
                    self._report(tenant, f"records are kept beyond their time: {done.problem}")
        return removed

    async def _remove(self, tenant: str, before: Instant | None) -> Removal:
        try:
            return await self._storage.remove_audit(tenant, self._keys, before, _REMOVED_AT_ONCE)
        except Rejection as rejection:
            if rejection.reason is not Reason.CORRUPT:
                raise
            return Removal(problem=rejection.message)

    async def _look_around(self) -> None:
        """What need not be done each time."""
        self._told.clear()
        await self._storage.reconsider_audit(self._keys, BATCH)
        await self.remove_old()

    def _report(self, tenant: str, problem: str) -> None:
        """Once in a while, as long as it lasts."""
        if self._told.get(tenant) != problem:
            self._told[tenant] = problem
            text = "the audit log is not as it should be: %s"
            _log.error(text, problem, extra={"tenant": tenant})

    async def _run(self) -> None:
        rounds = 0
        while True:
            try:
                await self.seal_all()
                if rounds % max(1, round(_LOOK_AROUND_SECONDS / self._every)) == 0:
                    await self._look_around()
            except Rejection as rejection:
                _log.warning("audit records stay unsealed for now: %s", rejection.message)
            except Exception:
                # Nobody waits for this task: it would end unheard.
                _log.exception("audit records stay unsealed for now")
            rounds += 1
            await asyncio.sleep(self._every)


def _as_head(made: Seal) -> dict[str, object]:
    return {
        "tenant": made.tenant,
        "audit_head": f"{made.number}:{made.hash.hex()}",
        "audit_sequence": made.last_sequence,
    }
