"""The sandbox of this service: chosen and proved at start, refused when it could not be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from meshkit.tasks import ended

from .sandbox import selftest
from .sandbox.backend import SandboxBackend
from .sandbox.bubblewrap import BubblewrapBackend
from .sandbox.docker.backend import DockerBackend
from .sandbox.model import SandboxUnavailableError, WorkspaceKey
from .sandbox.rest import Rest
from .sandbox.sandlock import SandlockBackend
from .settings import ToolRunnerSettings

logger = logging.getLogger(__name__)


class Sandboxes:
    """Holds the backend that passed its self-test, if one did."""

    def __init__(self, settings: ToolRunnerSettings, rest: Rest) -> None:
        """`rest` is where files of workspaces are while they are closed."""
        self._settings = settings
        self._rest = rest
        self._releasing: set[asyncio.Task[None]] = set()
        self._backend: SandboxBackend | None = None
        self.report = selftest.Report((), remedy="the sandbox has not been started")

    @property
    def ready(self) -> bool:
        """True if code can run."""
        return self._backend is not None and self.report.passed

    @property
    def backend(self) -> SandboxBackend:
        """The proved backend. Raises SandboxUnavailableError with the remedy."""
        if self._backend is None or not self.report.passed:
            raise SandboxUnavailableError(self.report.remedy)
        return self._backend

    async def start(self) -> None:
        """Starts and proves the backend; never raises, for the service serves without one too."""
        if self._settings.code_execution == "none":
            self.report = selftest.Report((), remedy="AUTOGEN_CODE_EXECUTION=none switches it off")
            return
        reports = []
        for backend in self._candidates():
            self.report = await self._prove(backend)
            if self.report.passed:
                logger.info("code runs in %s sandboxes", backend.name)
                return
            logger.info("no %s sandboxes: %s", backend.name, self.report.remedy)
            reports.append(self.report)
        self.report = _refusal(reports)
        logger.warning("no code will run: %s", self.report.remedy)

    def _candidates(self) -> Iterator[SandboxBackend]:
        """Those that may be used, the best first."""
        wanted = self._settings.backend
        if wanted in ("auto", "bubblewrap"):
            yield BubblewrapBackend(self._settings.bubblewrap)
        if wanted in ("auto", "sandlock"):
            yield SandlockBackend(self._settings.sandlock)
        if wanted == "docker":
            yield DockerBackend(self._settings.docker)

    async def _prove(self, backend: SandboxBackend) -> selftest.Report:
        """Keeps the backend if it passes; else nothing of it is left."""
        try:
            await backend.start()
        except (SandboxUnavailableError, OSError) as error:
            report = selftest.Report((), remedy=str(error))
        else:
            report = await selftest.run(backend)
        if report.passed:
            backend.workspaces.rest = self._rest
            self._backend = backend
        else:
            await backend.close()
        return report

    def release(self, tenant: str, conversation_id: str) -> None:
        """Closes the workspace of a conversation that waits, unless something acts in it."""
        if self._backend is None:
            return
        key = WorkspaceKey(tenant, conversation_id)
        task = asyncio.create_task(self._backend.workspaces.release(key))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def close(self) -> None:
        """Kills what runs and closes the workspaces."""
        await ended(*self._releasing)
        if self._backend is not None:
            await self._backend.close()


def _refusal(reports: Sequence[selftest.Report]) -> selftest.Report:
    """Why there is none, in the order of preference; the properties are of the one that got far."""
    furthest = max(reports, key=lambda report: len(report.capabilities))
    remedies = dict.fromkeys(report.remedy for report in reports)
    return replace(furthest, remedy="; or ".join(remedies))
