"""A Docker engine of a test's or a measurement's own: started from Debian's package, gone after it.

It shares nothing with an engine of the machine: its data, socket and containers are below a folder
of its own, and it touches no network interface and no firewall rule.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_RUNSC = "/usr/bin/runsc"


def can_have_engine() -> bool:
    """True where one can be started: by root, with the package docker.io."""
    return os.geteuid() == 0 and shutil.which("dockerd") is not None


@contextlib.contextmanager
def docker_engine(*, with_gvisor: bool = False) -> Iterator[str]:
    """The address of an engine that lives as long as the block. Raises RuntimeError."""
    # Unix sockets have short paths.
    folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a program of the machine's own
            _command(folder, with_gvisor=with_gvisor),
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


def _command(folder: Path, *, with_gvisor: bool) -> list[str]:
    command = [
        # A test run that is killed must not leave it behind.
        *("setpriv", "--pdeathsig", "TERM", "--", "dockerd"),
        *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
        *("--pidfile", f"{folder}/pid", "--host", f"unix://{folder}/docker.sock"),
        *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        *("--ip-masq=false", "--exec-opt", "native.cgroupdriver=cgroupfs"),
    ]
    if with_gvisor:
        command += ["--add-runtime", f"runsc={_RUNSC}"]
    return command


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
