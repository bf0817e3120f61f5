"""Gives audit records their places in their tenants' chains, and removes those that are old."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Sequence

from meshkit.tasks import stop

from .domain.audit_chain import Seal, SealingKey
from .domain.model import SECOND
from .domain.rejections import Rejection
from .identity import load_pepper
from .settings import StoreSettings
from .storage.interface import Storage

_log = logging.getLogger(__name__)

BATCH = 1000
_REMOVED_AT_ONCE = 500
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
    later whether the newest seals of a chain were cut off."""

    def __init__(
        self, storage: Storage, key: SealingKey, *, every: float, keep_days: int | None
    ) -> None:
        self._storage = storage
        self._key = key
        self._every = every
        self._keep_days = keep_days
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
        """Seals all that is not sealed."""
        made = []
        for tenant in await self._storage.tenants_to_seal():
            while seal := await self._storage.seal_audit(tenant, self._key, BATCH):
                made.append(seal)
                _log.info(
                    "audit records sealed",
                    extra={
                        "tenant": tenant,
                        "audit_head": f"{seal.number}:{seal.hash.hex()}",
                        "audit_sequence": seal.last_sequence,
                    },
                )
                if seal.last_sequence - seal.first_sequence + 1 < BATCH:
                    break
        return made

    async def remove_old(self) -> int:
        """Removes what is older than it has to be kept; says how many records."""
        if self._keep_days is None:
            return 0
        before = await self._storage.now() - self._keep_days * _DAY
        removed = 0
        for tenant in await self._storage.audited_tenants():
            while gone := await self._storage.remove_audit(
                tenant, self._key, before, _REMOVED_AT_ONCE
            ):
                removed += gone
        return removed

    async def _run(self) -> None:
        rounds = 0
        while True:
            try:
                await self.seal_all()
                if rounds % max(1, round(600 / self._every)) == 0:
                    await self.remove_old()
            except Rejection as rejection:
                _log.warning("audit records stay unsealed for now: %s", rejection.message)
            except Exception:
                # Nobody waits for this task: it would end unheard.
                _log.exception("audit records stay unsealed for now")
            rounds += 1
            await asyncio.sleep(self._every)
