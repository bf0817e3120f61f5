"""Settings of tool_runner; the only place where they are read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from meshkit.settings import Port, ServiceSettings
from pydantic import AliasChoices, Field, field_validator

from .executions import BufferBounds
from .languages.programs import BUILD_BYTES
from .sandbox.bubblewrap import BubblewrapOptions
from .sandbox.docker.options import DEFAULT_IMAGE, DockerOptions
from .sandbox.model import MIB, Limits
from .sandbox.options import LocalOptions
from .tools.packages.provider import PackageRules

# Of the environment, what the programs of every service need.
_INHERITED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
# What the self-test insists that sandboxes do not see, or have of their own.
_PRIVATE = frozenset({"root", "home", "var", "tmp", "proc", "dev", "run"})
_DEFAULT_BWRAP = "/usr/bin/bwrap"


def default_sandbox_python() -> Path | None:
    """Where scripts/prepare_sandbox_python.py puts its environment; None if it is not there."""
    if os.geteuid() == 0:
        root = Path("/var/lib/agentmesh")
    else:
        root = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "agentmesh"
    current = root / "sandbox-python/current"
    return current if current.exists() else None


class ToolRunnerSettings(ServiceSettings):
    """What tool_runner can be told, besides what every service can. Sizes are in MiB."""

    grpc_port: Port = 50054
    advertised_address: str = Field(default="", max_length=255, pattern=r"^(\S+:\d{1,5})?$")
    code_execution: Literal["local", "docker", "none"] = Field(
        default="local", validation_alias=AliasChoices("code_execution", "AUTOGEN_CODE_EXECUTION")
    )
    execution_seconds: float = Field(
        default=300,
        gt=0,
        le=86_400,
        validation_alias=AliasChoices("execution_seconds", "AUTOGEN_TIMEOUT"),
    )
    sandbox_backend: Literal["auto", "bubblewrap", "sandlock", "docker"] = "auto"
    sandbox_image: str = Field(default=DEFAULT_IMAGE, min_length=1)
    sandbox_runtime: str | None = None
    sandbox_engine: str | None = Field(
        default=None, validation_alias=AliasChoices("sandbox_engine", "DOCKER_HOST")
    )
    sandbox_python: Path | None = Field(default_factory=default_sandbox_python)
    sandbox_bwrap: str = Field(
        default_factory=lambda: shutil.which("bwrap") or _DEFAULT_BWRAP,
    )
    sandbox_toolchains: str = ""
    sandbox_cgroup: Path | None = None
    sandbox_first_uid: int = Field(default=1_879_048_192, ge=1)
    max_executions: int = Field(default=8, ge=1, le=1000)
    max_open_workspaces: int = Field(default=16, ge=1, le=1000)
    warm_sandboxes: int = Field(default=2, ge=0, le=100)
    workspace_idle_seconds: float = Field(default=300, gt=0)
    workspace_lifetime_seconds: float = Field(default=14_400, gt=0)
    upload_stall_seconds: float = Field(default=60, gt=0)
    workspace_mib: int = Field(default=128, ge=1)
    workspace_files: int = Field(default=10_000, ge=16)
    execution_memory_mib: int = Field(default=512, ge=32)
    max_execution_memory_mib: int = Field(default=2048, ge=32)
    execution_cpu_seconds: float = Field(default=120, gt=0)
    execution_cpus: float = Field(default=1.0, gt=0)
    execution_processes: int = Field(default=64, ge=4)
    max_execution_processes: int = Field(default=256, ge=4)
    execution_output_mib: int = Field(default=1, ge=1, le=4096)
    max_execution_output_mib: int = Field(default=64, ge=1, le=4096)
    execution_buffer_mib: int = Field(default=4, ge=1, le=256)
    ended_output_mib: int = Field(default=64, ge=1, le=4096)
    package_indexes: str = ""
    compile_cache_mib: int = Field(default=256, ge=0, le=65_536)
    tool_cache_mib: int = Field(default=16, ge=0, le=1024)
    tool_packages: str = ""
    tool_workers: int = Field(default=2, ge=1, le=64)
    tool_worker_mib: int = Field(default=1024, ge=256)
    tool_worker_calls: int = Field(default=1000, ge=1)
    tool_worker_env: str = ""

    @field_validator("package_indexes")
    @classmethod
    def _only_addresses(cls, value: str) -> str:
        for url in _names(value):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url} is no address of an index")
            if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
                raise ValueError(f"{url} is not protected; an index is reached by https")
        return value

    @field_validator("sandbox_toolchains")
    @classmethod
    def _only_folders_of_no_home(cls, value: str) -> str:
        for folder in filter(None, value.split(":")):
            path = Path(folder)
            parts = path.resolve().parts
            if not path.is_absolute() or len(parts) < 2 or parts[1] in _PRIVATE:
                raise ValueError(f"{folder} is no folder that sandboxes may see")
        return value

    @property
    def default_limits(self) -> Limits:
        """What an execution gets that asks for nothing."""
        return Limits(
            wall_seconds=self.execution_seconds,
            cpu_seconds=self.execution_cpu_seconds,
            cpus=self.execution_cpus,
            memory_bytes=self.execution_memory_mib * MIB,
            processes=self.execution_processes,
            workspace_bytes=self.workspace_mib * MIB,
            workspace_files=self.workspace_files,
            output_bytes=self.execution_output_mib * MIB,
        )

    @property
    def maximum_limits(self) -> Limits:
        """What no execution exceeds."""
        return Limits(
            wall_seconds=max(600.0, self.execution_seconds),
            cpu_seconds=max(600.0, self.execution_cpu_seconds),
            cpus=max(2.0, self.execution_cpus),
            memory_bytes=max(self.max_execution_memory_mib, self.execution_memory_mib) * MIB,
            processes=max(self.max_execution_processes, self.execution_processes),
            workspace_bytes=self.workspace_mib * MIB,
            workspace_files=self.workspace_files,
            # Compilers need more of it than programs are given.
            temporary_bytes=BUILD_BYTES,
            output_bytes=max(self.max_execution_output_mib, self.execution_output_mib) * MIB,
        )

    @property
    def packages(self) -> PackageRules:
        """Which packages bring tools, and what their workers may use."""
        return PackageRules(
            allowed=_names(self.tool_packages),
            workers=self.tool_workers,
            memory_bytes=self.tool_worker_mib * MIB,
            max_calls=self.tool_worker_calls,
            environment=_environment(*_INHERITED, *_names(self.tool_worker_env)),
        )

    @property
    def backend(self) -> Literal["auto", "bubblewrap", "sandlock", "docker"]:
        """The backend that is wanted; what `code_execution` says holds where no other is named."""
        if self.sandbox_backend == "auto" and self.code_execution == "docker":
            return "docker"
        return self.sandbox_backend

    @property
    def docker(self) -> DockerOptions:
        """Options of the Docker backend."""
        return DockerOptions(
            **self._local_options,
            engine=self.sandbox_engine,
            image=self.sandbox_image,
            runtime=self.sandbox_runtime,
        )

    @property
    def indexes(self) -> tuple[str, ...]:
        """Package indexes that programs may have packages of."""
        return tuple(_names(self.package_indexes))

    @property
    def buffer_bounds(self) -> BufferBounds:
        """How much output is kept to be read again."""
        return BufferBounds(self.execution_buffer_mib * MIB, self.ended_output_mib * MIB)

    @property
    def toolchains(self) -> tuple[Path, ...]:
        """Folders beside /usr that sandboxes see, for their `bin`."""
        return tuple(Path(folder) for folder in self.sandbox_toolchains.split(":") if folder)

    @property
    def sandlock(self) -> LocalOptions:
        """Options of the sandlock backend."""
        return LocalOptions(**self._local_options)

    @property
    def bubblewrap(self) -> BubblewrapOptions:
        """Options of the bubblewrap backend."""
        return BubblewrapOptions(**self._local_options, bwrap=self.sandbox_bwrap)

    @property
    def _local_options(self) -> dict[str, Any]:
        return {
            "data_folder": self.data_dir / "tool_runner",
            "python_folder": self.sandbox_python.resolve() if self.sandbox_python else None,
            "toolchains": self.toolchains,
            "cgroup": self.sandbox_cgroup,
            "first_uid": self.sandbox_first_uid,
            "max_executions": self.max_executions,
            "max_open_workspaces": self.max_open_workspaces,
            "warm_sandboxes": self.warm_sandboxes,
            "workspace_idle_seconds": self.workspace_idle_seconds,
            "workspace_lifetime_seconds": self.workspace_lifetime_seconds,
            "maximum": self.maximum_limits,
        }


def _names(value: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name for part in value.split(",") if (name := part.strip()))


def _environment(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
