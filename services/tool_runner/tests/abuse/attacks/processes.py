"""Other processes: their memory, descriptors, terminals, and what the kernel does for them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import pty
import resource
import signal
import stat
import struct
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path

from .attack import NotHereError, StoppedError
from .calls import buffer, call, libc, number_call
from .surface import ARGUMENTS, NO_RIGHTS, filtered, kernel


def _with_child(work: Callable[[int], str]) -> str:
    """Works on a process that only waits."""
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    try:
        return work(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@filtered()
def ptrace_of_a_process() -> str:
    """Attaches to another process as a debugger does."""
    return _with_child(lambda pid: f"attached: {call('ptrace', 16, pid, 0, 0)}")


@filtered()
def reading_memory_of_a_process() -> str:
    """process_vm_readv of another process."""

    held = ctypes.create_string_buffer(b"secret")

    def read(pid: int) -> str:
        got = ctypes.create_string_buffer(16)
        local = buffer("PN", ctypes.addressof(got), 6)
        remote = buffer("PN", ctypes.addressof(held), 6)
        call("process_vm_readv", pid, local, 1, remote, 1, 0)
        return repr(got.value)

    return _with_child(read)


@filtered()
def writing_memory_of_a_process() -> str:
    """process_vm_writev into another process."""
    place = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place[:4] = b"good"
    address = ctypes.addressof(ctypes.c_char.from_buffer(place))

    def write(pid: int) -> str:
        data = ctypes.create_string_buffer(b"evil")
        local = buffer("PN", ctypes.addressof(data), 4)
        remote = buffer("PN", address, 4)
        return f"{call('process_vm_writev', pid, local, 1, remote, 1, 0)} bytes written"

    return _with_child(write)


@filtered()
def taking_descriptors_of_a_process() -> str:
    """pidfd_getfd: a copy of another process's descriptor."""

    def take(pid: int) -> str:
        return f"descriptor {call('pidfd_getfd', call('pidfd_open', pid, 0), 0, 0)}"

    return _with_child(take)


@filtered()
def comparing_kernel_objects() -> str:
    """kcmp, which tells where the kernel keeps things."""
    return _with_child(lambda pid: f"order {call('kcmp', os.getpid(), pid, 0, 0, 0)}")


def _terminal() -> int:
    """A terminal of its own, which is this session's."""
    _, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    return terminal


@kernel(means=ARGUMENTS, stopped_by=("EPERM",))
def typing_into_a_terminal() -> str:
    """TIOCSTI: puts a command on the line of whoever started the program."""
    fcntl.ioctl(_terminal(), termios.TIOCSTI, b"x")
    return "typed"


@kernel(means=ARGUMENTS, stopped_by=("EPERM",))
def typing_with_a_wide_number() -> str:
    """TIOCSTI with bits above the 32 that the kernel looks at (CVE-2019-10063)."""
    number = {"x86_64": 16, "aarch64": 29}[platform.machine()]
    number_call(number, _terminal(), termios.TIOCSTI | 1 << 32, ctypes.c_char_p(b"x"))
    return "typed"


@kernel(
    means=ARGUMENTS,
    stopped_by=("EPERM",),
    outside_answer="ENOTTY",
    outside="only a console of the machine answers; a terminal of the test's own says ENOTTY",
)
def pasting_into_a_console() -> str:
    """TIOCLINUX: selects and pastes on a console."""
    fcntl.ioctl(_terminal(), 0x541C, b"\3")
    return "pasted"


@kernel(means=ARGUMENTS, stopped_by=("EPERM",))
def line_discipline() -> str:
    """TIOCSETD: loads a module of the kernel for a terminal's protocol."""
    fcntl.ioctl(_terminal(), termios.TIOCSETD, struct.pack("i", 0))
    return "set"


@filtered()
def shared_memory_of_system_v() -> str:
    """shmget: memory that outlives every process."""
    number = call("shmget", 0, 1 << 20, 0o1600)
    call("shmctl", number, 0, 0)
    return f"segment {number}"


@filtered()
def semaphores_of_system_v() -> str:
    """semget."""
    number = call("semget", 0, 1, 0o1600)
    call("semctl", number, 0, 0, 0)
    return f"semaphore {number}"


@filtered()
def queues_of_system_v() -> str:
    """msgget."""
    number = call("msgget", 0, 0o1600)
    call("msgctl", number, 0, 0)
    return f"queue {number}"


@kernel(means=NO_RIGHTS, stopped_by=("EPERM",))
def device_node() -> str:
    """mknod of the host's memory, or any disk."""
    with tempfile.TemporaryDirectory() as folder:
        os.mknod(f"{folder}/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    return "made"


@kernel(means="RLIMIT_RTPRIO 0", stopped_by=("EPERM",))
def priority_over_the_machine() -> str:
    """The real-time scheduler: one process for itself."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "real-time"


@kernel(means="RLIMIT_NICE 0", stopped_by=("EACCES", "EPERM"))
def niceness() -> str:
    """A priority above that of others."""
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    return "-20"


@kernel(means="RLIMIT_MEMLOCK 0", stopped_by=("EPERM", "ENOMEM"))
def locking_memory() -> str:
    """mlockall: memory that is never taken back."""
    if libc.mlockall(3):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return "locked"


@kernel(means="RLIMIT_MSGQUEUE 0", stopped_by=("EMFILE",))
def message_queues() -> str:
    """mq_open: memory of the kernel that outlives every process."""
    call("mq_open", b"abuse", os.O_CREAT | os.O_RDWR, 0o600, 0)
    return "opened"


@kernel(means="the ids are not mapped", stopped_by=("EINVAL", "EPERM"))
def becoming_root() -> str:
    """setresuid(0)."""
    os.setresuid(0, 0, 0)
    return "root"


@kernel(means="no new privileges, nosuid mounts", stopped_by=("no rights",))
def programs_that_are_setuid() -> str:
    """Runs a program that belongs to root and takes its rights."""
    program = next((p for p in ("/bin/su", "/usr/bin/passwd", "/bin/mount") if _is_setuid(p)), None)
    if program is None:
        raise NotHereError("no program is setuid")
    if os.geteuid() == 0:
        os.setresuid(54321, 54321, 54321)
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(readable, 0)
        os.execv(program, [program])
    while b"python" in Path(f"/proc/{pid}/comm").read_bytes():
        time.sleep(0.01)
    uids = Path(f"/proc/{pid}/status").read_text().partition("Uid:")[2].split()[:4]
    os.close(writable)
    os.kill(pid, 9) if uids[1] != "0" else None
    os.waitpid(pid, 0)
    if uids[1] == str(os.geteuid()):
        raise StoppedError("no rights")
    return f"effective uid {uids[1]}"


def _is_setuid(program: str) -> bool:
    path = Path(program)
    return path.exists() and bool(path.stat().st_mode & stat.S_ISUID)


@kernel(means=NO_RIGHTS, stopped_by=("EPERM",))
def file_with_capabilities() -> str:
    """setxattr security.capability: a program that gives rights to whoever runs it."""
    with tempfile.NamedTemporaryFile() as file:
        rights = struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 0, 0)
        os.setxattr(file.name, "security.capability", rights)
    return "written"


@kernel(
    means=NO_RIGHTS,
    stopped_by=("EPERM", "EACCES"),
    outside="a bound can be raised only with CAP_SYS_RESOURCE, which root may lack here",
)
def raising_limits() -> str:
    """setrlimit above what the sandbox was given."""
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
    except ValueError as error:
        raise PermissionError(errno.EPERM, str(error)) from error
    return "raised"
