"""Where attacks are run: outside of any sandbox, and inside one."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentmesh_tool_runner.sandbox.backend import SandboxBackend, Workspace
from agentmesh_tool_runner.sandbox.model import INPUT_DIRECTORY, ExecutionSpec, Limits

from ..results import Result, result_of  # noqa: TID252 - the tests are one tree
from .attacks import run
from .attacks.attack import ATTACKS, SETTINGS_VARIABLE, Attack

PYTHON: Final = "/usr/bin/python3"
MAIN: Final = "from attacks import run\nrun.main()\n"
# A plain script, which a warm sandbox runs in a fork of its own interpreter.
INSIDE_MAIN: Final = f"import sys\nsys.path.insert(0, '{INPUT_DIRECTORY}/abuse.zip')\n{MAIN}"
OUTSIDE_SECONDS: Final = 120
NOT_ROOT: Final = "not shown: an ordinary user may not"
# Fresh file systems where the attacks write, so that outside too nothing but memory is used.
SCRATCH: Final = """
mount -t tmpfs tmpfs /mnt && cp "$0" /mnt/abuse.zip && mkdir /mnt/work && cd /mnt/work
mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /dev/shm
"""


@dataclass(frozen=True)
class Answer:
    """How an attack ended: `through`, the name of an error, or a word of its own."""

    answer: str
    told: str = ""


@functools.cache
def archive() -> bytes:
    """The attacks as a program in one file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as package:
        package.writestr("__main__.py", MAIN)
        for file in sorted(Path(run.__file__).parent.glob("*.py")):
            package.write(file, f"attacks/{file.name}")
    return data.getvalue()


def of_family(*families: str, alone: bool) -> list[str]:
    """Names of attacks; `alone` are those that have limits or ends of their own."""
    return [
        attack.name
        for attack in ATTACKS.values()
        if attack.family in families and bool(attack.contained_by) == alone
    ]


def outside(
    arguments: Sequence[str],
    settings: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
    scratch: bool = False,
    prepare: str = "",
    afterwards: str = "",
) -> str:
    """Runs attacks as root in namespaces of their own, without a sandbox; returns what they print.

    `prepare` and `afterwards` are shell commands of the same place, before and after them.
    """
    folder = Path(tempfile.mkdtemp(prefix="abuse-"))
    program = folder / "abuse.zip"
    program.write_bytes(archive())
    place = "/mnt/abuse.zip" if scratch else str(program)
    enter = SCRATCH if scratch else f"cd {folder}"
    command = f'{enter}\n{prepare}\n{PYTHON} {place} "$@"\n{afterwards}'
    namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc"]
    told = dict(settings) | {"outside": True}
    try:
        done = subprocess.run(
            ["unshare", *namespaces, "--kill-child", "sh", "-c", command, str(program), *arguments],
            env={"PATH": os.environ["PATH"], SETTINGS_VARIABLE: json.dumps(told)}
            | dict(environment or {}),
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=OUTSIDE_SECONDS,
            check=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return done.stdout if done.stdout else done.stderr


def program(
    backend: SandboxBackend,
    arguments: Sequence[str],
    settings: Mapping[str, Any],
    limits: Limits | None = None,
) -> ExecutionSpec:
    """Attacks as a program of a sandbox."""
    return ExecutionSpec(
        [backend.python, f"{INPUT_DIRECTORY}/main.py", *arguments],
        files={"abuse.zip": archive(), "main.py": INSIDE_MAIN.encode()},
        environment={SETTINGS_VARIABLE: json.dumps(dict(settings))},
        limits=limits or Limits(),
    )


async def inside(
    backend: SandboxBackend,
    workspace: Workspace,
    arguments: Sequence[str],
    settings: Mapping[str, Any],
    limits: Limits | None = None,
) -> Result:
    """Runs attacks in a sandbox."""
    spec = program(backend, arguments, settings, limits)
    return await result_of(await workspace.execute(spec))


def answers(stdout: str) -> dict[str, Answer]:
    """What the attacks said, by name."""
    return {told["name"]: Answer(told["answer"], told["told"]) for told in _objects(stdout)}


def shown_outside(attack: Attack, answer: Answer | None) -> str:
    """How the attack worked outside. Fails where it should have and did not."""
    if os.geteuid() != 0:
        return NOT_ROOT
    assert answer is not None, f"{attack.name} said nothing outside"
    if attack.outside_answer and answer.answer != "ENOSYS":
        assert answer.answer == attack.outside_answer, answer
        return attack.outside
    if answer.answer == "through":
        return f"works: {answer.told}"
    if answer.answer == "not here" or (answer.answer == "ENOSYS" and attack.family == "kernel"):
        return f"not shown: this kernel has none of it ({answer.told})"
    assert attack.outside, answer
    return f"not shown: {attack.outside}"


def _objects(stdout: str) -> Iterator[dict[str, Any]]:
    for line in stdout.splitlines():
        if line.startswith('{"name"'):
            yield json.loads(line)


def limits_of(attack: Attack) -> Limits:
    return Limits(**attack.limits)
