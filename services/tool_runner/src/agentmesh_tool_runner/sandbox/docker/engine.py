"""The Docker engine, in plain calls. The SDK blocks, so threads wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentmesh_tool_runner.sandbox.cgroups import process_start_time
from agentmesh_tool_runner.sandbox.model import SandboxUnavailableError

from .flags import OWNER_LABEL, ContainerPlan, container_config

if TYPE_CHECKING:
    import docker

_Result = TypeVar("_Result")
_CALL_SECONDS: Final = 60
_EVENT_SECONDS: Final = 1.0
_KILLED: Final = "137"
_THREADS: Final = 8
_RETRIES: Final = 100
_RETRY_SECONDS: Final = 0.02
_ABANDONED: Final = timedelta(hours=1)
_REMEDY: Final = "install an engine and let this user reach it, or set DOCKER_HOST"


@dataclass(frozen=True)
class Facts:
    """What this engine is. `maps_users`: uids inside are others than outside."""

    machine: str
    runtimes: frozenset[str]
    maps_users: bool


def this_process() -> str:
    """Names this process among all that use an engine: machine and pid namespace, pid, start."""
    return f"{_machine()}/{os.getpid()}/{process_start_time()}"


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}-{Path('/proc/self/ns/pid').readlink()}"


def is_dead(owner: str) -> bool:
    """True if that process was one of this machine and is gone."""
    try:
        machine, pid, start = owner.split("/")
    except ValueError:
        return False
    if machine != _machine():
        return False
    try:
        return process_start_time(pid) != start
    except (OSError, IndexError):
        return True


class Engine:
    """One engine. Every method but `close` raises SandboxUnavailableError where it refuses."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._api: docker.APIClient | None = None
        self._events: Any = None
        self._short_of_memory: set[str] = set()
        self._killed: set[str] = set()
        self._ends: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def connect(self) -> Facts:
        """Reaches the engine and asks what it is."""
        try:
            import docker
        except ImportError as error:
            raise SandboxUnavailableError(
                "the package docker is missing: install agentmesh-tool-runner[docker]"
            ) from error

        loop = asyncio.get_running_loop()

        def connect() -> dict[str, Any]:
            self._api = docker.APIClient(
                base_url=self._address, version="auto", timeout=_CALL_SECONDS
            )
            told: dict[str, Any] = self._api.info()
            # Asked for here, so that no event of a container is missed.
            self._events = self._api.events(
                decode=True,
                filters={
                    "type": "container",
                    "event": ["oom", "kill", "die"],
                    "label": OWNER_LABEL,
                },
            )
            threading.Thread(target=self._watch, args=(loop,), daemon=True).start()
            return told

        info = await self._run(connect)
        options = " ".join(info.get("SecurityOptions") or [])
        return Facts(
            machine=info["Architecture"],
            runtimes=frozenset(info.get("Runtimes") or {}),
            maps_users="name=userns" in options or "name=rootless" in options,
        )

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(Exception):  # however it ends, engine, loop or object is gone
            for event in self._events:
                code = event["Actor"]["Attributes"].get("exitCode", "")
                loop.call_soon_threadsafe(self._heard, event["status"], event["id"], code)

    def _heard(self, status: str, container: str, code: str) -> None:
        if status == "kill":
            self._killed.add(container)
        elif status == "oom":
            self._short_of_memory.add(container)
        else:
            # With gVisor the kernel ends all of a container at once, and the engine hears of no
            # shortage: but nobody else kills what the engine was not asked to kill.
            if code == _KILLED and container not in self._killed:
                self._short_of_memory.add(container)
            self._ends[container].set()

    async def ran_out_of_memory(self, container: str) -> bool:
        """True if the kernel said so of a container that has just died."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EVENT_SECONDS):
                await self._ends[container].wait()
        return container in self._short_of_memory

    async def require_image(self, name: str) -> None:
        """Raises SandboxUnavailableError if the engine does not have it: nothing is pulled."""
        try:
            await self._call(lambda api: api.inspect_image(name))
        except SandboxUnavailableError as error:
            raise SandboxUnavailableError(
                f"the engine has no image {name} ({error}): build it with "
                "scripts/sandbox_image.py, or pull one with Python 3.11 and name it in "
                "AGENTMESH_SANDBOX_IMAGE"
            ) from error

    async def create_volume(self, name: str, options: Mapping[str, str], owner: str) -> None:
        """Makes a volume of the engine's local driver."""
        await self._call(
            lambda api: api.create_volume(
                name, driver="local", driver_opts=dict(options), labels={OWNER_LABEL: owner}
            )
        )

    async def remove_volume(self, name: str) -> None:
        """Does nothing where it is not there; a container on its way out holds it a while."""
        for _ in range(_RETRIES):
            try:
                await self._call(lambda api: api.remove_volume(name))
            except SandboxUnavailableError as error:
                if "in use" not in str(error):
                    return
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def run_attached(self, plan: ContainerPlan) -> tuple[str, socket.socket]:
        """Starts a container; returns its id and the connection to its standard streams."""

        def start(api: Any) -> tuple[str, socket.socket]:
            made = api.create_container_from_config(container_config(plan), plan.name)
            identity: str = made["Id"]
            try:
                attached = _attach(api, identity)
                try:
                    api.start(identity)
                except BaseException:
                    attached.close()
                    raise
            except BaseException:
                with contextlib.suppress(Exception):  # it may be going by itself
                    api.remove_container(identity, force=True, v=True)
                raise
            return identity, attached

        return await self._call(start)

    async def destroy(self, container: str) -> None:
        """Kills all of a container and removes it; does nothing where it is gone already."""
        with contextlib.suppress(SandboxUnavailableError):
            await self._call(lambda api: api.remove_container(container, force=True, v=True))
        await self._until_gone(container)
        self._ends.pop(container, None)
        self._short_of_memory.discard(container)
        self._killed.discard(container)

    async def _until_gone(self, container: str) -> None:
        """Removal goes on after the engine has agreed to it."""
        deadline = time.monotonic() + _CALL_SECONDS
        with contextlib.suppress(SandboxUnavailableError):
            while time.monotonic() < deadline:
                await self._call(lambda api: api.inspect_container(container))
                await asyncio.sleep(0.01)

    async def sweep(self) -> int:
        """Removes what processes of this machine left that are dead; returns how much it was."""
        return await self._call(_sweep)

    async def _call(self, work: Callable[[Any], _Result]) -> _Result:
        api = self._api
        if api is None:
            raise SandboxUnavailableError("the engine was not connected")
        return await self._run(lambda: work(api))

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        import docker.errors
        import requests

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except docker.errors.APIError as error:
            raise SandboxUnavailableError(
                f"the Docker engine refuses: {error.explanation}"
            ) from error
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise SandboxUnavailableError(
                f"no Docker engine answers ({error}): {_REMEDY}"
            ) from error

    def close(self) -> None:
        """Lets go of the engine."""
        if self._events is not None:
            with contextlib.suppress(Exception):  # the engine may be gone
                self._events.close()
        if self._api is not None:
            self._api.close()
        self._threads.shutdown(wait=False)


def _attach(api: docker.APIClient, container: str) -> socket.socket:
    """Before the start, so that not a byte is missed."""
    wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    attached: Any = api.attach_socket(container, wanted)
    raw = getattr(attached, "_sock", None)
    if not isinstance(raw, socket.socket) or type(raw) is not socket.socket:
        raise SandboxUnavailableError(
            "only engines behind a socket of this machine or plain TCP can be used: this one is "
            "reached over TLS or ssh; tunnel its socket"
        )
    own = raw.dup()
    own.setblocking(False)
    attached.close()
    return own


def _sweep(api: docker.APIClient) -> int:
    swept = 0
    ours = {"label": OWNER_LABEL}
    for container in api.containers(all=True, filters=ours):
        if is_dead(container["Labels"][OWNER_LABEL]):
            swept += 1
            with contextlib.suppress(Exception):  # it may be going by itself
                api.remove_container(container["Id"], force=True, v=True)
    found = api.volumes(filters={**ours, "dangling": "true"})
    for volume in found.get("Volumes") or []:
        if is_dead(volume["Labels"][OWNER_LABEL]) or _is_old(volume.get("CreatedAt", "")):
            with contextlib.suppress(Exception):  # it may be in use again, or gone
                api.remove_volume(volume["Name"])
                swept += 1
    return swept


def _is_old(created_at: str) -> bool:
    try:
        return datetime.now(UTC) - datetime.fromisoformat(created_at) > _ABANDONED
    except (ValueError, TypeError):
        return False
