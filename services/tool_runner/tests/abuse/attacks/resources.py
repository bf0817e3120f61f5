"""Resources of the machine. Every attack has an end, so that outside it shows and harms nothing."""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from .attack import StoppedError, attack, settings
from .families import family

MIB = 1 << 20
MEMORY = 128 * MIB
"""What an execution gets here; PAST_MEMORY is past it."""
PAST_MEMORY = 320 * MIB
SMALL = {"memory_bytes": MEMORY, "processes": 24, "wall_seconds": 60.0}
ROOMY = {"memory_bytes": 512 * MIB, "temporary_bytes": 32 * MIB}

GROUP_OR_RLIMIT = "control group, or RLIMIT_AS times RLIMIT_NPROC and a watchdog"
SIZED = "tmpfs of fixed size"

uses_up = partial(attack, "resources")
memory = partial(uses_up, means=GROUP_OR_RLIMIT, contained_by=("OUT_OF_MEMORY",), limits=SMALL)


def _touch(size: int) -> bytearray:
    return bytearray(b"x") * size


@uses_up(means="pids group, or RLIMIT_NPROC", contained_by=("PROCESS_LIMIT",), limits=SMALL)
def fork_bomb() -> str:
    """Processes that do nothing but be there."""
    pids: list[int] = []
    try:
        for _ in range(120):
            pid = os.fork()
            if pid == 0:
                time.sleep(120)
                os._exit(0)
            pids.append(pid)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return f"{len(pids)} processes"


@uses_up(means="pids group, or RLIMIT_NPROC", contained_by=("PROCESS_LIMIT",), limits=SMALL)
def thread_bomb() -> str:
    """Threads, which no limit of processes counts unless it is made to."""
    threading.stack_size(65536)
    release = threading.Event()
    threads = [threading.Thread(target=release.wait) for _ in range(120)]
    try:
        for thread in threads:
            try:
                thread.start()
            except RuntimeError as error:
                print(error, file=sys.stderr)
                raise BlockingIOError(11, "can't start new thread") from error
    finally:
        release.set()
    return f"{len(threads)} threads"


@uses_up(
    means="killed with its pid namespace or control group",
    contained_by=("WALL_TIMEOUT", "PROCESS_LIMIT", "OUT_OF_MEMORY"),
    limits=SMALL | {"wall_seconds": 1.0},
    outside="has no end: the other bombs show what it does",
)
def fork_bomb_without_end() -> str:
    """Every process makes two, for ever, and none can be caught."""
    if settings().get("outside"):
        raise RuntimeError("only in a sandbox")
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.001)


@memory()
def memory_of_one() -> str:
    """One process takes more than there is."""
    return f"{len(_touch(PAST_MEMORY)) // MIB} MiB"


@memory()
def memory_of_afamily() -> str:
    """Four processes, each far below the limit."""
    return family(4, lambda: _hold(_touch(PAST_MEMORY // 4)))


def _hold(what: object) -> None:
    _HELD.append(what)


_HELD: list[object] = []


@memory()
def shared_memory_of_afamily() -> str:
    """The same with memory that is marked as shared, and so is nobody's."""

    def take() -> None:
        pages = mmap.mmap(-1, PAST_MEMORY // 4, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        for start in range(0, PAST_MEMORY // 4, mmap.PAGESIZE):
            pages[start] = 1
        _hold(pages)

    return family(4, take)


@uses_up(
    means="control group; without one the call is refused",
    contained_by=("OUT_OF_MEMORY",),
    stopped_by=("ENOSYS",),
    limits=SMALL,
)
def memory_without_a_process() -> str:
    """memfd_create: pages that are in no process's address space."""
    held = [os.memfd_create("abuse") for _ in range(4)]
    for descriptor in held:
        for _ in range(PAST_MEMORY // 4 // MIB):
            os.write(descriptor, bytes(MIB))
    return f"{PAST_MEMORY // MIB} MiB in descriptors"


@memory(limits=SMALL | {"temporary_bytes": 160 * MIB}, contained_by=("OUT_OF_MEMORY", "DISK_FULL"))
def memory_as_files() -> str:
    """/tmp and /dev/shm together hold more than the memory; each is within its size."""
    for folder in (tempfile.gettempdir(), "/dev/shm"):
        with tempfile.TemporaryFile(dir=folder) as file:
            _HELD.append(os.dup(file.fileno()))
            for _ in range(155):
                file.write(bytes(MIB))
            file.flush()
    if not settings().get("outside") and not settings().get("groups"):
        # Without groups these files are bounded by their size and by nothing else.
        raise StoppedError("within the size of both")
    return "310 MiB in files"


def _fill(name: str, folder: str, size: int) -> None:
    def run() -> str:
        place = tempfile.mkdtemp(dir=folder)
        try:
            for number in range(size // MIB):
                Path(place, str(number)).write_bytes(bytes(MIB))
        finally:
            if settings().get("outside"):
                _remove(place)
        return f"{size // MIB} MiB"

    run.__name__, run.__doc__ = name, f"Files in {folder}, none of them large."
    uses_up(means=SIZED, contained_by=("DISK_FULL",), limits=ROOMY)(run)


def _remove(place: str) -> None:
    for name in os.listdir(place):
        Path(place, name).unlink()
    Path(place).rmdir()


_fill("disk_of_the_workspace", ".", 160 * MIB)
_fill("disk_of_tmp", "/tmp", 64 * MIB)
_fill("disk_of_shared_memory", "/dev/shm", 64 * MIB)


@uses_up(means=SIZED, contained_by=("DISK_FULL",), limits=ROOMY)
def files_without_names() -> str:
    """Deleted files that stay open."""
    for number in range(40):
        file = Path(f"abuse-{number}").open("wb")  # noqa: SIM115
        Path(f"abuse-{number}").unlink()
        file.write(bytes(4 * MIB))
        file.flush()
        _HELD.append(file)
    return "160 MiB"


@uses_up(means=SIZED, contained_by=("DISK_FULL",), limits=ROOMY)
def reserved_space() -> str:
    """fallocate: space without a byte written."""
    with tempfile.NamedTemporaryFile(dir=".") as file:
        os.posix_fallocate(file.fileno(), 0, 200 * MIB)
    return "200 MiB"


def _many_files(name: str, folder: str, count: int) -> None:
    def run() -> str:
        place = tempfile.mkdtemp(dir=folder)
        try:
            for number in range(count):
                os.close(os.open(f"{place}/{number}", os.O_CREAT | os.O_WRONLY))
        finally:
            if settings().get("outside"):
                _remove(place)
        return f"{count} files"

    run.__name__, run.__doc__ = name, f"Empty files in {folder}: inodes, not bytes."
    uses_up(
        means="tmpfs with a number of inodes, or control group",
        contained_by=("DISK_FULL", "OUT_OF_MEMORY"),
        limits=ROOMY | {"memory_bytes": MEMORY},
    )(run)


_many_files("inodes_of_the_workspace", ".", 15_000)
_many_files("inodes_of_tmp", "/tmp", 15_000)
_many_files("inodes_of_shared_memory", "/dev/shm", 15_000)


@uses_up(
    means="tmpfs with a number of inodes, or control group",
    contained_by=("DISK_FULL", "OUT_OF_MEMORY"),
    stopped_by=("ENOSPC", "EOPNOTSUPP"),
    limits=ROOMY | {"memory_bytes": MEMORY},
)
def attributes_of_files() -> str:
    """Extended attributes, which count for no file's size."""
    with tempfile.NamedTemporaryFile(dir=".") as file:
        for number in range(600):
            os.setxattr(file.name, f"user.{number}", bytes(60_000))
    return "34 MiB"


@uses_up(means="RLIMIT_NOFILE", stopped_by=("EMFILE",))
def descriptors() -> str:
    """Open files without end."""
    for _ in range(500):
        _HELD.append(os.dup(0))
    return "500 descriptors"


@uses_up(
    means="the kernel's count of a uid's pipes, or control group",
    contained_by=("OUT_OF_MEMORY", "PROCESS_LIMIT"),
    stopped_by=("EPERM", "EMFILE", "held little"),
    limits=SMALL,
)
def memory_in_pipes() -> str:
    """Large pipes, filled: memory of the kernel."""
    held = 0
    for _ in range(120):
        _, writable = os.pipe()
        os.set_blocking(writable, False)
        fcntl.fcntl(writable, fcntl.F_SETPIPE_SZ, MIB)
        held += os.write(writable, bytes(MIB))
    return f"{held // MIB} MiB"


@memory(
    contained_by=("OUT_OF_MEMORY", "PROCESS_LIMIT"), stopped_by=("EMFILE", "within its descriptors")
)
def memory_in_sockets() -> str:
    """Full sockets in many processes: memory of the kernel."""

    def fill() -> None:
        for _ in range(100):
            pair = socket.socketpair()
            pair[0].setblocking(False)
            pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
            try:
                while True:
                    pair[0].send(bytes(65536))
            except BlockingIOError:
                _hold(pair)

    told = family(8, fill, seconds=0)
    if not settings().get("outside") and not settings().get("groups"):
        raise StoppedError("within its descriptors")
    return told


@uses_up(
    means="cancelled at the bound",
    contained_by=("OUTPUT_LIMIT",),
    limits={"output_bytes": MIB},
)
def flood_of_output() -> str:
    """More output than anybody wants to keep."""
    for _ in range(64):
        os.write(1, b"x" * 65535 + b"\n")
    return "4 MiB"


@uses_up(
    means="cancelled at the bound", contained_by=("OUTPUT_LIMIT",), limits={"output_bytes": MIB}
)
def flood_of_errors() -> str:
    """The same on standard error, from many processes at once."""

    def write() -> None:
        for _ in range(16):
            os.write(2, b"x" * 65535 + b"\n")

    return family(4, write)


@uses_up(
    means="control group, or RLIMIT_CPU and a watchdog",
    contained_by=("CPU_TIMEOUT",),
    limits={"cpu_seconds": 0.5, "cpus": 2.0},
)
def processor_of_many() -> str:
    """Processes that each use little, and together more than was given."""

    def burn() -> None:
        while time.process_time() < 0.4:
            pass

    return family(4, burn)


@uses_up(means="the service's clock", contained_by=("WALL_TIMEOUT",), limits={"wall_seconds": 0.5})
def sleepers() -> str:
    """Processes that wait, use nothing, and never end."""
    return family(4, lambda: time.sleep(1.0))


@uses_up(
    means="RLIMIT_FSIZE",
    contained_by=("DISK_FULL", "SIGNALED"),
    stopped_by=("EFBIG", "SIGXFSZ"),
    limits=ROOMY,
)
def file_of_a_terabyte() -> str:
    """A sparse file that is larger than any disk of the host that would copy it."""
    with tempfile.NamedTemporaryFile(dir=".") as file:
        os.ftruncate(file.fileno(), 1 << 40)
    return "1 TiB"


@uses_up(
    means="RLIMIT_CORE 0", stopped_by=("no core",), outside="the machine's pattern may pipe it"
)
def core_dump() -> str:
    """A crash that writes its memory to the disk."""
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    _, status = os.waitpid(pid, 0)
    if os.WCOREDUMP(status) or resource.getrlimit(resource.RLIMIT_CORE)[1]:
        return "dumped"
    raise StoppedError("no core")


@uses_up(means="terminals of the sandbox's own", stopped_by=("EMFILE", "ENOSPC"))
def terminals_of_the_machine() -> str:
    """Pseudo terminals, of which a machine has 4096."""
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
    for _ in range(500):
        _HELD.append(os.openpty())
    return "500 terminals"
