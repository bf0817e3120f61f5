"""Proof, at every start, that the sandbox isolates and bounds here; without it no code runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .backend import SandboxBackend, Workspace
from .model import (
    INPUT_DIRECTORY,
    MIB,
    Capability,
    EndReason,
    ExecutionSpec,
    Limits,
    Outcome,
    SandboxUnavailableError,
    WorkspaceKey,
)

PROPERTIES: Final = (
    "isolation",
    "network",
    "system_calls",
    "memory_limit",
    "process_limit",
    "cpu_limit",
    "disk_limit",
    "output_limit",
    "wall_limit",
)

_KEY: Final = WorkspaceKey(tenant="", conversation="selftest", temporary=True)
_LIMITS: Final = Limits(
    wall_seconds=20, cpu_seconds=10, memory_bytes=128 * MIB, processes=16, output_bytes=64 * 1024
)

# Each answers what an attacker would like to know, as one JSON object.
_LOOK_AROUND: Final = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)

def refused(call, *arguments):
    return call(*arguments) == -1

def writable(path):
    try:
        open(os.path.join(path, "probe"), "w").close()
        return True
    except OSError:
        return False

def first_process_environment():
    try:
        words = open("/proc/1/environ", "rb").read().split(b"\\0")
    except OSError:
        return []
    return sorted(word.partition(b"=")[0].decode(errors="replace") for word in words if word)

lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
network = open("/proc/net/dev").read().splitlines()[2:]
print(json.dumps({
    "environment": sorted(os.environ),
    "first_process_environment": first_process_environment(),
    "capabilities": status["CapEff"] + status["CapBnd"],
    "no_new_privileges": libc.prctl(39, 0, 0, 0, 0),
    "seccomp": libc.prctl(21, 0, 0, 0, 0),
    "uid": os.getuid(),
    "descriptors": sorted(int(d) for d in os.listdir("/proc/self/fd"))[:8],
    "processes": sum(name.isdigit() for name in os.listdir("/proc")),
    "interfaces": [line.split(":")[0].strip() for line in network],
    "routes": len(open("/proc/net/route").read().splitlines()) - 1,
    "writable": [p for p in ("/", "/usr", "/etc", "/dev", "/proc", "/run/input") if writable(p)],
    "homes": [p for p in ("/root", "/home", "/var") if os.path.exists(p)],
    "mount_refused": refused(libc.mount, b"none", b"/tmp", b"tmpfs", 0, None),
    "unshare_refused": refused(libc.unshare, 0x10000000),
    "ptrace_refused": refused(libc.ptrace, 0, 0, 0, 0),
}))
"""
# What an engine gives the first process of every container, of which nothing is the service's.
_OF_AN_ENGINE: Final = {"PATH", "LANG", "HOME", "HOSTNAME"}
_MEMORY: Final = "blocks = []\nwhile True:\n    blocks.append(bytearray(8 << 20))\n"
_PROCESSES: Final = """
import os, time
for _ in range(500):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
"""
_DISK: Final = """
import os
while True:
    with open(f"/workspace/{os.urandom(8).hex()}", "wb") as file:
        file.write(bytes(8 << 20))
"""
_SPIN: Final = "while True: pass\n"
_SLEEP: Final = "import time\ntime.sleep(600)\n"
_OUTPUT: Final = "while True: print('x' * 4096)\n"


@dataclass(frozen=True)
class Report:
    """What the self-test saw. `remedy` is empty if code may run."""

    capabilities: tuple[Capability, ...]
    remedy: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.remedy


async def run(backend: SandboxBackend) -> Report:
    """Runs every probe. Raises nothing: what goes wrong is a property that does not hold."""
    try:
        workspace = await backend.workspace(_KEY)
        seen, held = await _probe(backend, workspace)
        await backend.delete_workspace(_KEY)
    except (SandboxUnavailableError, OSError) as error:
        return Report((), remedy=str(error))
    capabilities = tuple(
        Capability(name, held[name] == "", held[name] or backend.means[name]) for name in PROPERTIES
    )
    broken = [f"{each.name}: {each.detail}" for each in capabilities if not each.enforced]
    remedy = (
        f"the {backend.name} sandbox failed its self-test ({'; '.join(broken)})" if broken else ""
    )
    return Report(capabilities, remedy, seen)


async def _probe(
    backend: SandboxBackend, workspace: Workspace
) -> tuple[Mapping[str, Any], dict[str, str]]:
    """What the first probe saw, and for each property an empty text or what is wrong."""
    limits = _LIMITS
    # Two at once: where a sandbox is kept warm, one is in it, and the other in one made for it.
    looks = await asyncio.gather(
        *(_run(backend, workspace, _LOOK_AROUND, limits) for _ in range(2))
    )
    for outcome, _, last_words in looks:
        if not outcome.succeeded:
            raise SandboxUnavailableError(
                f"Python does not run in the sandbox ({outcome.reason.value}: "
                f"{(outcome.detail or last_words.strip() or 'no word')[-200:]}); prepare it with "
                "scripts/prepare_sandbox_python.py"
            )
    seen = [json.loads(output) for _, output, _ in looks]
    wanted = {
        "memory_limit": (_MEMORY, limits, EndReason.OUT_OF_MEMORY),
        "process_limit": (_PROCESSES, limits, EndReason.PROCESS_LIMIT),
        "cpu_limit": (_SPIN, replace(limits, cpu_seconds=0.2), EndReason.CPU_TIMEOUT),
        "disk_limit": (_DISK, replace(limits, memory_bytes=1024 * MIB), EndReason.DISK_FULL),
        "output_limit": (_OUTPUT, limits, EndReason.OUTPUT_LIMIT),
        "wall_limit": (_SLEEP, replace(limits, wall_seconds=0.3), EndReason.WALL_TIMEOUT),
    }
    ends = await asyncio.gather(
        *(_run(backend, workspace, code, bound) for code, bound, _ in wanted.values())
    )
    held = {
        name: "" if end[0].reason is reason else f"ended with {end[0].reason.value} {end[0].detail}"
        for (name, (_, _, reason)), end in zip(wanted.items(), ends, strict=True)
    }
    judged = [_judge(each, own_image=backend.own_image) for each in seen]
    held |= {name: next((one[name] for one in judged if one[name]), "") for name in judged[0]}
    return seen[0], held


async def _run(
    backend: SandboxBackend, workspace: Workspace, code: str, limits: Limits
) -> tuple[Outcome, bytes, str]:
    spec = ExecutionSpec(
        [backend.python, f"{INPUT_DIRECTORY}/probe.py"],
        files={"probe.py": code.encode()},
        limits=limits,
    )
    execution = await workspace.execute(spec)
    output: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    async for piece in execution.output():
        output[piece.stream.value] += piece.data
    last_words = output["stderr"].decode(errors="replace")
    return await execution.outcome(), output["stdout"], last_words


def _judge(seen: Mapping[str, Any], *, own_image: bool) -> dict[str, str]:
    isolation = [
        text
        for wrong, text in (
            (seen["uid"] == 0, "runs as root"),
            (
                set(seen["first_process_environment"]) - (_OF_AN_ENGINE if own_image else set()),
                "the environment of the first process shows",
            ),
            (int(seen["capabilities"].replace("\n", ""), 16), "has capabilities"),
            (seen["no_new_privileges"] != 1, "may gain privileges"),
            (seen["writable"], f"may write {seen['writable']}"),
            (seen["homes"] and not own_image, f"sees {seen['homes']}"),
            (seen["processes"] > 4, "sees processes of the host"),
            (len(seen["descriptors"]) > 4, "holds descriptors of the service"),
        )
        if wrong
    ]
    reachable = [name for name in seen["interfaces"] if name != "lo"]
    open_calls = [name for name in ("mount", "unshare", "ptrace") if not seen[f"{name}_refused"]]
    return {
        "isolation": ", ".join(isolation),
        "network": f"interfaces {reachable}" if reachable or seen["routes"] else "",
        "system_calls": f"{open_calls} are open" if open_calls or seen["seccomp"] != 2 else "",
    }
