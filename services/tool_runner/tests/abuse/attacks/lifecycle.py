"""Life and death: programs that outlive their end, and tamper with what is to end them."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .attack import StoppedError, attack, settings
from .calls import call

KILLED = "killed with its pid namespace or control group"
lives = partial(attack, "lifecycle")
ENDLESS = "has no end; the daemons show that nobody ends them"


def _beat() -> None:
    """Lives for ever, and shows it."""
    while True:
        with Path("alive").open("a") as file:
            file.write(".")
        time.sleep(0.01)


def _ignore_signals() -> None:
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue


def _beating() -> str:
    for _ in range(2000):
        if Path("alive").exists():
            return "it beats"
        time.sleep(0.005)
    raise StoppedError("it does not beat")


@lives(means=KILLED)
def daemon_that_holds_the_output() -> str:
    """Forks twice, makes a session of its own, keeps standard output open; the program ends."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            _ignore_signals()
            _beat()
        os._exit(0)
    return _beating()


@lives(means=KILLED)
def daemon_in_the_dark() -> str:
    """The same with every descriptor closed, so that no pipe tells of it."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 256)
            _ignore_signals()
            _beat()
        os._exit(0)
    return _beating()


@lives(means=KILLED, contained_by=("WALL_TIMEOUT", "CANCELLED"), outside=ENDLESS)
def program_that_ignores_signals() -> str:
    """Ignores every signal that can be ignored, with a child that does."""
    _ignore_signals()
    if os.fork() == 0:
        _beat()
    _beat()
    return "never"


@lives(means=KILLED, contained_by=("WALL_TIMEOUT", "CANCELLED"), outside=ENDLESS)
def program_that_is_stopped() -> str:
    """Stops its family and itself: a stopped process takes no signal but two."""
    pid = os.fork()
    if pid == 0:
        _beat()
    _beating()
    os.kill(pid, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)
    return "never"


@lives(
    means="pid namespace: its first process takes no signal from inside", stopped_by=("it lives",)
)
def killing_the_supervisor() -> str:
    """Signals to the process that watches over the program."""
    if not settings().get("outside"):
        _kill(1)
        state = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[0]
        if state in "TZX":
            return f"the first process is in state {state}"
        raise StoppedError("it lives")
    supervisor = os.fork()
    if supervisor == 0:
        if os.fork() == 0:
            _kill(os.getppid())
            os._exit(0)
        time.sleep(30)
        os._exit(0)
    status = os.waitpid(supervisor, 0)[1]
    return f"signal {os.WTERMSIG(status)}"


def _kill(pid: int) -> None:
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except OSError:
            continue


FORGED = (
    b'{"child-pid": 1}\n{"exit-code": 0}\n',
    b'{"ended": "execution-1", "code": 0, "cpu": 0, "peak": 0}\n',
    b'{"call": 1, "result": null}',
    b"\x00\x00\x00\x04\x00\x00\x00\x00",
    b"!",
)


@lives(
    means="exit codes come from the kernel, output on pipes of its own",
    outside="there is nobody who would read them",
)
def forged_frames() -> str:
    """Writes what messages of the launcher and of bwrap look like to every descriptor there is."""
    written = []
    for folder in ("/proc/self/fd", "/proc/1/fd", f"/proc/{os.getppid()}/fd"):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                descriptor = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                continue
            for frame in FORGED:
                try:
                    os.write(descriptor, frame)
                except OSError:
                    break
                written.append(f"{folder}/{name}")
            os.close(descriptor)
    for descriptor in range(3, 256):
        for frame in FORGED:
            try:
                os.write(descriptor, frame)
            except OSError:
                break
    # Said last, on its own line: the test looks whether this exit code is what it is told.
    os._exit(77)


@lives(
    means="the first process cannot be looked into, or may no more than the program",
    stopped_by=("no gain",),
    outside="there is no such process",
)
def writing_into_the_supervisor() -> str:
    """/proc/1/mem: takes over the first process, then looks whether that one may do more."""
    try:
        descriptor = os.open("/proc/1/mem", os.O_RDWR)
    except OSError:
        raise StoppedError("no gain") from None
    os.close(descriptor)
    status = dict(
        line.split(":\t", 1)
        for line in Path("/proc/1/status").read_text().splitlines()
        if ":\t" in line
    )
    own = dict(
        line.split(":\t", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":\t" in line
    )
    for what in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid"):
        if status[what] != own[what]:
            return f"the first process has {what} {status[what]}, this one {own[what]}"
    raise StoppedError("no gain")


@lives(means="a resident that was changed runs nothing more", outside="there is no such process")
def marks_on_the_supervisor() -> str:
    """Changes of the first process what one of the same user may change of another."""
    changed = []
    attempts: dict[str, Callable[[], object]] = {
        "descriptors": lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (64, 64)),
        "files": lambda: resource.prlimit(1, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
        "niceness": lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
        "scheduler": lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
        "processors": lambda: os.sched_setaffinity(1, {min(os.sched_getaffinity(1))}),
        "disk priority": lambda: call("ioprio_set", 1, 1, 3 << 13),
        "group": lambda: os.setpgid(1, 1),
        "memory": lambda: Path("/proc/1/oom_score_adj").write_text("1000"),
        "name": lambda: Path("/proc/1/comm").write_text("evil"),
        "slack": lambda: Path("/proc/1/timerslack_ns").write_text("1000000000"),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        changed.append(name)
    return ", ".join(changed)


@lives(means="the resident's children have values of their own", outside="there is no such process")
def marks_of_the_last_program() -> str:
    """Looks for what the one before may have left in this program's own state."""
    state = {
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
        "files": resource.getrlimit(resource.RLIMIT_FSIZE),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "scheduler": os.sched_getscheduler(0),
        "processors": sorted(os.sched_getaffinity(0)),
        "disk priority": call("ioprio_get", 1, 0),
        "mask": os.umask(0o22),
        "signals": [line for line in _status() if line.startswith(("SigBlk", "SigIgn", "SigCgt"))],
        "rights": [
            line for line in _status() if line.startswith(("Cap", "NoNewPrivs", "Seccomp:"))
        ],
        "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
        "sockets": len(Path("/proc/net/unix").read_text().splitlines()),
        "modules": sorted(name for name in sys.modules if "poison" in name),
        "functions": [len.__name__, os.getcwd.__name__, json.loads.__name__],
        "descriptors that are open": len(os.listdir("/proc/self/fd")),
    }
    return json.dumps(state)


def _status() -> list[str]:
    return Path("/proc/self/status").read_text().splitlines()


@lives(means=KILLED, outside="there is no such process")
def adopted_by_the_supervisor() -> str:
    """A process that is no child of the program's, but of the first process, and goes on."""
    for _ in range(3):
        pid = call("clone", 0x8000 | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            _ignore_signals()
            _beat()
    return _beating()


@lives(
    means="nothing that a program changes in its interpreter is another's", outside="there is none"
)
def poisoned_interpreter() -> str:
    """Changes modules and built-in functions, in memory and on the path, for whoever comes next."""
    for module, name in ((os, "getcwd"), (json, "loads")):
        setattr(module, name, print)
    sys.modules["poison"] = sys
    sys.path.insert(0, "/workspace")
    for name in ("resident", "resident_child", "kernel", "agentmesh_tool_runner"):
        Path(f"/workspace/{name}.py").write_text("import sys; sys.modules['poison'] = sys")
    for number in (signal.SIGCHLD, *range(signal.SIGRTMIN, signal.SIGRTMAX)):
        try:
            os.kill(1, number)
        except OSError:
            continue
    os.set_blocking(0, False)
    return "poisoned"
