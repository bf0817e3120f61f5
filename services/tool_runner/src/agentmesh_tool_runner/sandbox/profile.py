"""What a bubblewrap sandbox looks like from inside, as bwrap's arguments."""

from __future__ import annotations

import os
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import inside
from .backend import INPUT_DIRECTORY, WORKSPACE_DIRECTORY, ExecutionSpec
from .inside import Launch
from .launcher_protocol import (
    BLOCK_DESCRIPTOR,
    FIRST_EXTRA_DESCRIPTOR,
    STATUS_DESCRIPTOR,
    TEMPORARY_FOLDERS,
)


@dataclass(frozen=True)
class Installation:
    """What is installed here: bwrap, and the folder of the Python environment for sandboxes."""

    bwrap: str
    python_folder: Path | None
    options: frozenset[str]
    toolchains: tuple[Path, ...] = ()


def supported_options(bwrap: str) -> frozenset[str]:
    """The long options this bwrap knows. Raises OSError if it does not run."""
    told = subprocess.run(  # noqa: S603 - a fixed program that the operator installed
        [bwrap, "--help"], capture_output=True, text=True, timeout=10, check=False, env={}
    )
    words = (told.stdout + told.stderr).split()
    return frozenset(word for word in words if word.startswith("--"))


def compose(
    installation: Installation,
    spec: ExecutionSpec,
    *,
    workspace: str,
    seccomp: bytes,
    processes: int | None,
) -> Launch:
    """`workspace` is where the launcher mounted it; `processes` is a bound to set from outside
    where no control group has it.
    """
    contents: list[bytes] = [b"", seccomp]  # the first place is kept for the options themselves

    def descriptor_of(data: bytes) -> str:
        contents.append(data)
        return str(FIRST_EXTRA_DESCRIPTOR + len(contents) - 1)

    options = [*_isolation(installation), *_system_files(installation)]
    options += ["--ro-bind-data", descriptor_of(inside.PASSWD), "/etc/passwd"]
    options += ["--ro-bind-data", descriptor_of(inside.GROUP), "/etc/group"]
    # Of the launcher's child's making, for bwrap's own have no bound on the number of files.
    folders = [str(Path(workspace).parent / name) for name in TEMPORARY_FOLDERS]
    size, files = spec.limits.temporary_bytes, spec.limits.workspace_files
    options += ["--proc", "/proc", "--dev", "/dev"]
    options += ["--bind", folders[0], "/tmp"]  # noqa: S108 - inside
    options += ["--bind", folders[1], "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108 - inside
    options += ["--perms", "0755", "--dir", INPUT_DIRECTORY]
    for name, data in spec.files.items():
        target = f"{INPUT_DIRECTORY}/{name}"
        options += ["--perms", "0555", "--ro-bind-data", descriptor_of(data), target]
    options += ["--bind", workspace, WORKSPACE_DIRECTORY, "--chdir", WORKSPACE_DIRECTORY]
    options += ["--remount-ro", "/", "--seccomp", str(FIRST_EXTRA_DESCRIPTOR + 1)]
    options += ["--json-status-fd", str(STATUS_DESCRIPTOR)]
    if processes is not None:
        options += ["--block-fd", str(BLOCK_DESCRIPTOR)]
    environment = inside.environment(installation.python_folder, installation.toolchains)
    environment |= dict(spec.environment)
    for name, value in environment.items():
        options += ["--setenv", name, value]
    contents[0] = b"".join(os.fsencode(option) + b"\0" for option in options)
    argv = [installation.bwrap, "--args", str(FIRST_EXTRA_DESCRIPTOR), "--", *spec.argv]
    late = [] if processes is None else [(resource.RLIMIT_NPROC, processes)]
    return Launch(argv, contents, late, [(folder, size, files) for folder in folders])


def _isolation(installation: Installation) -> list[str]:
    options = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if "--disable-userns" in installation.options:
        # The seccomp filter refuses new user namespaces as well; this holds without it.
        options.append("--disable-userns")
    inner = str(inside.INNER_ID)
    options += ["--uid", inner, "--gid", inner, "--hostname", "sandbox"]
    return [*options, "--clearenv"]


def _system_files(installation: Installation) -> list[str]:
    system = inside.system_files()
    options: list[str] = []
    for folder in system.folders:
        options += ["--ro-bind", folder, folder]
    for name, target in system.links:
        options += ["--symlink", target, name]
    for file in (*system.files, *map(str, installation.toolchains)):
        options += ["--ro-bind-try", file, file]
    if installation.python_folder:
        options += ["--ro-bind", str(installation.python_folder), inside.PYTHON_DIRECTORY]
    return options
