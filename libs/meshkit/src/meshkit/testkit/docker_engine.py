"""A Docker engine of a test's or a measurement's own: started from Debian's package, gone after it.

It shares nothing with an engine of the machine: its data, socket and containers are below a folder
of its own, and it touches no network interface and no firewall rule.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
# Its own network would need an interface to copy; a sandbox has none.
_GVISOR = {"runtimes": {"runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--network=none"]}}}


def can_have_engine() -> bool:
    """True where one can be started: by root, with the package docker.io."""
    return os.geteuid() == 0 and shutil.which("dockerd") is not None


def can_have_gvisor() -> bool:
    """True where the engine can have gVisor's runtime: with the package runsc."""
    return can_have_engine() and shutil.which("runsc") is not None


@contextlib.contextmanager
def docker_engine() -> Iterator[str]:
    """The address of an engine that lives as long as the block. Raises RuntimeError.

    It has gVisor's runtime, `runsc`, where that is installed; its default is runc.
    """
    # Unix sockets have short paths.
    folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a program of the machine's own
            _command(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_until_up(process, folder / "docker.sock", log)
        yield f"unix://{folder}/docker.sock"
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _command(folder: Path) -> list[str]:
    settings = folder / "daemon.json"
    settings.write_text(json.dumps(_GVISOR if can_have_gvisor() else {}))
    return [
        # A test run that is killed must not leave it behind.
        *("setpriv", "--pdeathsig", "TERM", "--", "dockerd"),
        *(
            "--config-file",
            str(settings),
            "--data-root",
            f"{folder}/data",
            "--exec-root",
            f"{folder}/exec",
        ),
        *("--pidfile", f"{folder}/pid", "--host", f"unix://{folder}/docker.sock"),
        *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        *("--ip-masq=false", "--exec-opt", "native.cgroupdriver=cgroupfs"),
    ]


def _wait_until_up(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if socket.exists() and b"API listen on" in log.read_bytes():
            return
        time.sleep(0.05)
    last = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise RuntimeError(f"no Docker engine can be started: {' / '.join(last)}")


def _unmount_below(folder: Path) -> None:
    """What a killed engine has left mounted."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    for point in sorted((line.split()[1] for line in mounts), reverse=True):
        if point.startswith(f"{folder}/"):
            command = ["/usr/bin/umount", "--lazy", point]
            subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - as above
