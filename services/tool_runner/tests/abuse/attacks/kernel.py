"""The kernel's surface: calls that make more of a program than it is."""

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
import socket
import stat
import struct
import tempfile
import termios
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .attack import NotHereError, StoppedError, attack
from .calls import buffer, call, libc, number_call, prctl, x86_only

FILTER = "seccomp allow list"
ARGUMENTS = "seccomp, by argument"
NO_RIGHTS = "no capabilities, user namespace"
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x4000000, 0x10000000, 0x40000000

kernel = partial(attack, "kernel")
filtered = partial(kernel, means=FILTER, stopped_by=("ENOSYS",))


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


@filtered()
def mounting() -> str:
    """mount of a new file system."""
    with tempfile.TemporaryDirectory() as folder:
        call("mount", b"none", folder.encode(), b"tmpfs", 0, 0)
        call("umount2", folder.encode(), 2)
    return "mounted"


@filtered()
def mounting_with_the_new_calls() -> str:
    """fsopen, fsconfig, fsmount, move_mount."""
    context = call("fsopen", b"tmpfs", 0)
    call("fsconfig", context, 6, 0, 0, 0)
    mounted = call("fsmount", context, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        call("move_mount", mounted, b"", -100, folder.encode(), 4)
        call("umount2", folder.encode(), 2)
    return "mounted"


@filtered()
def cloning_a_mount() -> str:
    """open_tree of everything that is mounted."""
    return f"descriptor {call('open_tree', -100, b'/', 1)}"


@filtered()
def making_read_only_mounts_writable() -> str:
    """mount_setattr takes the read-only flag from a mount."""
    call("mount_setattr", -100, b"/", 0, buffer("QQQQ", 0, 1, 0, 0), 32)
    return "writable"


@filtered()
def moving_a_mount() -> str:
    """move_mount alone, of a tree that a descriptor holds."""
    tree = -100
    try:
        tree = call("open_tree", -100, b"/", 1)
    except OSError:
        pass
    with tempfile.TemporaryDirectory() as folder:
        call("move_mount", tree, b"", -100, folder.encode(), 4)
        call("umount2", folder.encode(), 2)
    return "moved"


@filtered()
def changing_the_root_mount() -> str:
    """pivot_root."""
    folder = tempfile.mkdtemp()
    try:
        call("unshare", CLONE_NEWNS)
        call("mount", b"none", b"/", 0, 0x44000, 0)
        call("mount", b"none", folder.encode(), b"tmpfs", 0, 0)
    except OSError:
        pass
    os.chdir(folder)
    call("pivot_root", b".", b".")
    return "another root"


@filtered()
def changing_the_root_folder() -> str:
    """chroot, the first half of the classical escape from one."""
    call("chroot", b".")
    return "another root"


@filtered()
def new_user_namespace() -> str:
    """unshare of a user namespace, in which one is root."""
    call("unshare", CLONE_NEWUSER)
    return f"uid {os.geteuid()} in a namespace of its own"


@filtered()
def new_network_namespace() -> str:
    """unshare of a network namespace with rights of its own."""
    call("unshare", CLONE_NEWNET)
    return "a network namespace"


def _forked(pid: int) -> str:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0x40000000)
    return f"child {pid}"


@kernel(means=ARGUMENTS, stopped_by=("EPERM",))
def new_namespace_by_clone() -> str:
    """clone with CLONE_NEWUSER, which no filter of call numbers stops."""
    return _forked(call("clone", CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0))


@filtered()
def new_namespace_by_clone3() -> str:
    """clone3, whose flags no filter can see."""
    return _forked(
        call("clone3", buffer("8Q", CLONE_NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)
    )


@filtered()
def entering_a_namespace() -> str:
    """setns into a namespace that /proc shows."""
    call("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), CLONE_NEWUTS)
    return "entered"


@filtered()
def adding_a_key() -> str:
    """A key on the kernel's key ring, which is shared by uid and kept when processes are gone."""
    return f"key {call('add_key', b'user', b'abuse', b'x', 1, -1)}"


@filtered()
def searching_key_rings() -> str:
    """keyctl: the number of the session's ring."""
    return f"ring {call('keyctl', 0, -3, 1)}"


@filtered()
def requesting_a_key() -> str:
    """request_key, which can start a program on the host."""
    call("add_key", b"user", b"abuse-wanted", b"x", 1, -1)
    return f"key {call('request_key', b'user', b'abuse-wanted', 0, 0)}"


@filtered()
def io_uring() -> str:
    """io_uring: reads, writes and connects that no filter sees."""
    return f"ring {call('io_uring_setup', 4, ctypes.create_string_buffer(120))}"


@filtered()
def bpf() -> str:
    """bpf: a map in kernel memory."""
    return f"map {call('bpf', 0, buffer('IIIII', 2, 4, 4, 1, 0), 20)}"


@filtered()
def userfaultfd() -> str:
    """userfaultfd: stops the kernel in the middle of a copy."""
    return f"descriptor {call('userfaultfd', os.O_CLOEXEC)}"


@filtered()
def performance_events() -> str:
    """perf_event_open: a counter that has had many holes."""
    wanted = buffer("IIQQQQQ16x", 1, 64, 0, 0, 0, 0, 1)
    return f"descriptor {call('perf_event_open', wanted, 0, -1, -1, 0)}"


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


@filtered(
    outside_answer="EINVAL",
    outside="would replace the running kernel: given too many segments, it is refused as such",
)
def loading_another_kernel() -> str:
    """kexec_load."""
    return f"{call('kexec_load', 0, 17, 0, 0)}"


@filtered(
    outside_answer="ENOEXEC",
    outside="would change the running kernel: given no module, it is refused as such",
)
def loading_a_module() -> str:
    """init_module."""
    return f"{call('init_module', b'no module at all' * 16, 256, b'')}"


@filtered(
    outside_answer="EINVAL",
    outside="would end the machine: given wrong magic numbers, it is refused as such",
)
def rebooting() -> str:
    """reboot."""
    return f"{call('reboot', 1, 2, 3, 0)}"


@filtered(
    outside_answer="ENOENT",
    outside="would change the machine: given a file that is not there, it is refused as such",
)
def swapping_to_a_file() -> str:
    """swapon."""
    return f"{call('swapon', b'/nowhere/at/all', 0)}"


@filtered(
    outside_answer="ENOENT",
    outside="would write for the machine: given a file that is not there, it is refused as such",
)
def process_accounting() -> str:
    """acct: every process that ends is written to a file of the attacker's."""
    return f"{call('acct', b'/nowhere/at/all')}"


@filtered()
def setting_the_clock() -> str:
    """adjtimex sets the frequency of the clock; to what it is, outside."""
    timex = ctypes.create_string_buffer(208)
    call("adjtimex", timex)
    struct.pack_into("I", timex, 0, 2)
    call("adjtimex", timex)
    return "set"


@filtered(
    outside_answer="EINVAL",
    outside="would set the machine's clock: given no time of day, it is refused as such",
)
def setting_the_time_of_day() -> str:
    """settimeofday."""
    return f"{call('settimeofday', buffer('qq', 0, 1 << 40), 0)}"


@filtered()
def naming_the_host() -> str:
    """sethostname."""
    call("sethostname", b"evil", 4)
    return socket.gethostname()


@filtered()
def reading_the_kernel_log() -> str:
    """syslog: addresses and names of the host's devices."""
    return f"{call('syslog', 10, 0, 0)} bytes"


@filtered()
def input_and_output_ports() -> str:
    """iopl: talks to devices without the kernel."""
    return f"{call('iopl', 3)}"


@filtered()
def local_descriptor_table() -> str:
    """modify_ldt: 16-bit code, and a long list of holes."""
    x86_only()
    return f"{call('modify_ldt', 0, ctypes.create_string_buffer(64), 64)} bytes"


@filtered()
def opening_by_handle() -> str:
    """open_by_handle_at: every file of a file system by number, the way out of many containers."""
    held, mounted = buffer("Ii128x", 128, 0), ctypes.c_int()
    folder = os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        call("name_to_handle_at", folder, b"", held, ctypes.byref(mounted), 0x1000)
    except OSError:
        pass
    return f"descriptor {call('open_by_handle_at', folder, held, os.O_RDONLY)}"


@filtered()
def watching_all_files() -> str:
    """fanotify_init."""
    return f"descriptor {call('fanotify_init', 0, 0)}"


@filtered()
def placing_memory() -> str:
    """mbind: memory of the machine's nodes."""
    pages = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    return f"{call('mbind', address, mmap.PAGESIZE, 0, 0, 0, 0)}"


@filtered()
def secret_memory() -> str:
    """memfd_secret: pages that nobody can look into or count."""
    return f"descriptor {call('memfd_secret', 0)}"


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


@filtered()
def using_up_the_machines_aio() -> str:
    """io_setup: requests come out of one number for the whole machine (fs.aio-max-nr)."""
    context = ctypes.c_ulong()
    call("io_setup", 64, ctypes.byref(context))
    return f"context {context.value:#x}"


@filtered()
def flushing_the_machines_disks() -> str:
    """sync: waits for, and stalls, every file system of the host."""
    call("sync")
    return "flushed"


@kernel(means=ARGUMENTS, stopped_by=("EPERM",))
def executable_data() -> str:
    """personality READ_IMPLIES_EXEC."""
    return f"{call('personality', 0x0400000)}"


@kernel(means=ARGUMENTS, stopped_by=("EPERM",))
def predictable_addresses() -> str:
    """personality ADDR_NO_RANDOMIZE."""
    return f"{call('personality', 0x0040000)}"


def _machine_code(code: bytes) -> int:
    pages = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    pages.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


@kernel(means="seccomp, by architecture", stopped_by=("SIGSYS",))
def calls_of_32_bits() -> str:
    """int 0x80: the numbers of another machine, past a filter that does not look."""
    x86_only()
    code = b"\x53\xb8" + struct.pack("<I", 310) + b"\xbb" + struct.pack("<I", CLONE_NEWUTS)
    result = _machine_code(code + b"\xcd\x80\x5b\xc3")
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return "unshared"


@kernel(means="seccomp, by architecture", stopped_by=("ENOSYS", "SIGSYS"))
def calls_of_x32() -> str:
    """The numbers of x32: 64-bit calls with a bit set."""
    x86_only()
    number_call(0x40000000 | 272, CLONE_NEWUTS)
    return "unshared"


@filtered(outside="no kernel knows it yet")
def calls_of_tomorrow() -> str:
    """A number that no kernel of today gives a meaning to."""
    return f"{number_call(900, 0, 0, 0)}"


@kernel(means="the stricter of two filters holds", stopped_by=("ENOSYS",))
def looser_filter_on_top() -> str:
    """A filter of the program's own that allows everything."""
    allow = buffer("HBBI", 6, 0, 0, 0x7FFF0000)
    prctl(38, 1)
    program = buffer("HxxxxxxP", 1, ctypes.addressof(allow))
    prctl(22, 2, ctypes.addressof(program))
    call("unshare", CLONE_NEWUTS)
    return "unshared"


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
