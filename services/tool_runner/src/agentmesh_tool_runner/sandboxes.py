"""The sandbox of this service: chosen and proved at start, refused when it could not be."""

from __future__ import annotations

import logging

from .sandbox import selftest
from .sandbox.backend import SandboxBackend, SandboxUnavailableError
from .sandbox.bubblewrap import BubblewrapBackend
from .settings import ToolRunnerSettings

logger = logging.getLogger(__name__)


class Sandboxes:
    """Holds the backend that passed its self-test, if one did."""

    def __init__(self, settings: ToolRunnerSettings) -> None:
        self._settings = settings
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
        backend = BubblewrapBackend(self._settings.bubblewrap)
        try:
            await backend.start()
        except (SandboxUnavailableError, OSError) as error:
            self.report = selftest.Report((), remedy=str(error))
        else:
            self._backend = backend
            self.report = await selftest.run(backend)
        if self.report.passed:
            logger.info("code runs in %s sandboxes", backend.name)
        else:
            logger.warning("no code will run: %s", self.report.remedy)

    async def close(self) -> None:
        """Kills what runs and saves the workspaces."""
        if self._backend is not None:
            await self._backend.close()
