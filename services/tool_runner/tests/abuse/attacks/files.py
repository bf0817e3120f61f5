"""Files that a program leaves in its workspace for the service, or the next one, to trip over."""

from __future__ import annotations

import os
import socket
import stat
from functools import partial
from pathlib import Path

from .attack import attack, settings

leaves = partial(attack, "lifecycle", outside="the trap is sprung by the test of the same name")


@leaves(means="openat2: no links, nothing but plain files")
def traps_for_the_service() -> str:
    """Links, pipes, sockets, devices and odd names where plain files are expected."""
    Path("link").symlink_to(settings()["host_file"])
    Path("up").symlink_to("../../../../../.." + settings()["host_file"])
    Path("folder").mkdir()
    Path("folder/root").symlink_to("/")
    Path("magic").symlink_to("/proc/self/root")
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    try:
        os.mknod("whiteout", stat.S_IFCHR, 0)
    except OSError:
        pass
    Path("plain").write_text("plain")
    return "left"


@leaves(means="the archive is of the service's making")
def names_like_records() -> str:
    """Names that look like parts of an archive, or of its extended headers."""
    for name in (
        "19 path=..escaped\n",
        "..\\escaped",
        "a" * 250,
        "GlobalHead.0.0",
        "... ",
        "-rf",
        "new\nline",
        "\x1b[2J",
    ):
        Path(name).write_text("x")
    Path("PaxHeaders").symlink_to("../../../../tmp")
    Path("long").symlink_to("/" + "b" * 300)
    return "left"


@leaves(means="names are bytes to the service")
def names_that_are_no_text() -> str:
    """Names that are no UTF-8."""
    Path(os.fsdecode(b"\xff\xfe name")).write_text("x")
    return "left"


@leaves(means="setuid bits are not kept, mounts are nosuid, the uid is the sandbox's own")
def setuid_file() -> str:
    """A program of the attacker's that runs with its owner's rights, left for the host."""
    Path("own").write_bytes(Path("/bin/true").read_bytes())
    Path("own").chmod(0o6755)
    return "left"
