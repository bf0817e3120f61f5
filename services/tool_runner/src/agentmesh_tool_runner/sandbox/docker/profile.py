"""The engine's seccomp profile, from the same list as the sandbox's own filter.

The profile binds every process of a container, the agent too. The filter of `seccomp` is loaded
besides, by each program on itself, and is the finer one: what the engine's format cannot say (an
argument that is none of several) the profile leaves open and the filter refuses.
"""

from __future__ import annotations

import errno
import json
from typing import Any, Final

from agentmesh_tool_runner.sandbox import seccomp

_LOW_WORD: Final = 0xFFFFFFFF
_ARCHITECTURES: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
# Engines before 23 answer EPERM to what is not listed, which C libraries take for the last word.
_NOT_THERE: Final = frozenset(
    {
        *("add_key", "request_key", "keyctl", "bpf", "userfaultfd", "memfd_secret"),
        *("clone3", "close_range", "openat2", "faccessat2", "epoll_pwait2", "futex_waitv"),
        *("io_uring_setup", "io_uring_enter", "io_uring_register", "pidfd_getfd", "cachestat"),
        *("process_madvise", "process_mrelease", "set_mempolicy_home_node", "map_shadow_stack"),
    }
)


def profile(machine: str) -> str:
    """The profile as JSON text. Raises UnsupportedMachineError."""
    if machine not in seccomp.MACHINES:
        raise seccomp.UnsupportedMachineError(f"no system call table for {machine}")
    names = seccomp.MACHINES[machine].numbers
    plain = sorted(name for name in names if not _said_by_argument(name))
    missing = sorted(_NOT_THERE - names.keys())
    rules: list[dict[str, Any]] = [
        {"names": plain, "action": "SCMP_ACT_ALLOW"},
        {"names": missing, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]
    for name in sorted(names):
        if _said_by_argument(name):
            rules += _argument_rules(name, seccomp.ARGUMENT_RULES[name])
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": errno.ENOSYS,
            "architectures": [_ARCHITECTURES[machine]],
            "syscalls": rules,
        }
    )


def _said_by_argument(name: str) -> bool:
    rule = seccomp.ARGUMENT_RULES.get(name)
    return rule is not None and not rule.none_of


def _argument_rules(name: str, rule: seccomp.ArgumentRule) -> list[dict[str, Any]]:
    """One rule for each way in which the argument may be right."""
    masked = [(rule.without_bits, 0)] if rule.without_bits else []
    masked += [(_LOW_WORD, value) for value in rule.one_of]
    return [
        {
            "names": [name],
            "action": "SCMP_ACT_ALLOW",
            "args": [
                {
                    "index": rule.argument,
                    "value": mask,
                    "valueTwo": value,
                    "op": "SCMP_CMP_MASKED_EQ",
                }
            ],
        }
        for mask, value in masked
    ]
