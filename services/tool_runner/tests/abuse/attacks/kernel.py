"""The kernel itself: calls that change the machine or widen what a program may ask of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import tempfile

from .calls import buffer, call, number_call, prctl, x86_only
from .surface import ARGUMENTS, CLONE_NEWUTS, filtered, kernel


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
