"""What a container may be and do, as the engine's own options: hardened, bounded on all sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentmesh_tool_runner.sandbox.model import INPUT_DIRECTORY, MIB, WORKSPACE_DIRECTORY, Limits

OWNER_LABEL: Final = "agentmesh.sandbox.owner"
ROLE_LABEL: Final = "agentmesh.sandbox.role"
AGENT_BYTES: Final = 32 * MIB
"""Room for the agent, and for what a program may leave behind before its container is dropped."""
GVISOR: Final = "runsc"
# Of gVisor's kernel, none of them of the machine's: to become the program's uid and drop all of
# these, to kill it, and to remove what it leaves.
_AGENT_CAPABILITIES: Final = ("SETUID", "SETGID", "SETPCAP", "KILL", "DAC_OVERRIDE", "FOWNER")
# What gVisor's kernel takes for itself, counted with the program by the engine's groups.
_KERNEL_BYTES: Final = 64 * MIB
_KERNEL_PROCESSES: Final = 1000
_CPU_PERIOD_MICROSECONDS: Final = 100_000
_INPUT_BYTES: Final = 64 * MIB
_AGENT_PROCESSES: Final = 1
# The engine's own list, and what else of the machine its kernel shows.
_MASKED: Final = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi"),
    *("/proc/kallsyms", "/proc/modules", "/proc/sysrq-trigger"),
    *("/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/firmware", "/sys/hypervisor"),
    *("/sys/kernel", "/sys/module", "/sys/power"),
)
_LONGEST_ARGUMENT: Final = 128 * 1024


@dataclass(frozen=True)
class Shape:
    """What is fixed once a container has started; a program gets one of its own shape."""

    memory_bytes: int
    processes: int
    cpus: float
    temporary_bytes: int
    temporary_files: int

    @classmethod
    def of(cls, limits: Limits) -> Shape:
        """The shape for a program with these limits."""
        return cls(
            limits.memory_bytes,
            limits.processes,
            limits.cpus,
            limits.temporary_bytes,
            limits.workspace_files,
        )


@dataclass(frozen=True)
class ContainerPlan:
    """One container. `role` is cell, which runs programs, or keeper, which holds a workspace."""

    name: str
    role: str
    image: str
    command: tuple[str, ...]
    owner: str
    volume: str
    uid: int
    shape: Shape
    seccomp: str
    runtime: str | None = None

    @property
    def under_gvisor(self) -> bool:
        """True if a kernel of its own runs in the container, as a process with many threads."""
        return is_gvisor(self.runtime)

    @property
    def agent_uid(self) -> int:
        """Who the agent is: the programs' own uid, for Linux guards a process that is not dumpable.

        The kernel of gVisor lets a uid open the descriptors of all its processes and kill the first
        one, so there the agent is that kernel's root, and becomes another for each program.
        """
        return 0 if self.under_gvisor else self.uid


def is_gvisor(runtime: str | None) -> bool:
    """True for gVisor's runtime, under whichever name the engine has it."""
    return runtime is not None and runtime.startswith(GVISOR)


def workspace_volume(*, size: int, files: int) -> dict[str, str]:
    """Options of a volume that is a tmpfs of that size and number of files.

    Writable by all: no two workspaces meet in a container, and an engine may map uids.
    """
    bounds = f"size={size},nr_inodes={files},mode=0777,nosuid,nodev"
    return {"type": "tmpfs", "device": "tmpfs", "o": bounds}


def container_config(plan: ContainerPlan) -> dict[str, Any]:
    """The body of the engine's call that creates a container."""
    if any(len(word) >= _LONGEST_ARGUMENT for word in plan.command):
        raise ValueError("the agent's text is too long for an argument")
    user = f"{plan.agent_uid}:{plan.agent_uid}"
    return {
        "Image": plan.image,
        "Entrypoint": [],
        "Cmd": list(plan.command),
        "User": user,
        "WorkingDir": "/",
        "Hostname": "sandbox",
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/tmp"],
        "NetworkDisabled": True,
        "Labels": {OWNER_LABEL: plan.owner, ROLE_LABEL: plan.role},
        # Once: when the attached service is gone the agent's input ends, and so does the agent.
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "HostConfig": _host_config(plan),
    }


def _host_config(plan: ContainerPlan) -> dict[str, Any]:
    shape = plan.shape
    memory = shape.memory_bytes + AGENT_BYTES + (_KERNEL_BYTES if plan.under_gvisor else 0)
    processes = shape.processes + _AGENT_PROCESSES
    config: dict[str, Any] = {
        "AutoRemove": True,
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "CapAdd": list(_AGENT_CAPABILITIES) if plan.under_gvisor else [],
        "SecurityOpt": ["no-new-privileges", f"seccomp={plan.seccomp}"],
        "Privileged": False,
        "ReadonlyRootfs": True,
        # The agent itself is the first process, for no signal from inside reaches that one.
        "Init": False,
        "IpcMode": "private",
        # The kernel of gVisor bounds the program's by RLIMIT_NPROC, which the agent sets.
        "PidsLimit": processes + (_KERNEL_PROCESSES if plan.under_gvisor else 0),
        "Memory": memory,
        "MemorySwap": memory,
        "CpuPeriod": _CPU_PERIOD_MICROSECONDS,
        "CpuQuota": max(1000, int(shape.cpus * _CPU_PERIOD_MICROSECONDS)),
        "Tmpfs": _tmpfs(plan),
        "Mounts": [
            {
                "Type": "volume",
                "Source": plan.volume,
                "Target": WORKSPACE_DIRECTORY,
                "VolumeOptions": {"NoCopy": True},
            }
        ],
        "Ulimits": [
            {"Name": name, "Soft": bound, "Hard": bound}
            for name, bound in (("core", 0), ("memlock", 0), ("msgqueue", 0), ("nofile", 4096))
        ],
        "MaskedPaths": list(_MASKED),
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
    }
    if plan.runtime is not None:
        config["Runtime"] = plan.runtime
    return config


def _tmpfs(plan: ContainerPlan) -> Mapping[str, str]:
    shape = plan.shape
    owner = f"uid={plan.agent_uid},gid={plan.agent_uid}"
    bounds = f"size={shape.temporary_bytes},nr_inodes={shape.temporary_files}"
    return {
        "/tmp": f"rw,exec,nosuid,nodev,mode=1777,{bounds}",  # noqa: S108 - inside
        # In the place of the engine's own, which has a size but no bound on the number of files.
        "/dev/shm": f"rw,noexec,nosuid,nodev,mode=1777,{bounds}",  # noqa: S108 - inside
        INPUT_DIRECTORY: f"rw,exec,nosuid,nodev,mode=0755,{owner},"
        f"size={min(_INPUT_BYTES, shape.memory_bytes)},nr_inodes=1024",
    }
