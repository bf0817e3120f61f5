"""Life and death: programs that outlive their end, and tamper with what is to end them."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

from .attack import StoppedError, attack, settings

KILLED = "killed with its pid namespace or control group"
lives = partial(attack, "lifecycle")
OF_THE_TEST = "outside the test shows it with the same program"


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


@lives(means=KILLED, contained_by=("WALL_TIMEOUT",), limits={"wall_seconds": 1.5})
def program_that_ignores_signals() -> str:
    """Ignores every signal that can be ignored, with a child that does."""
    _ignore_signals()
    if os.fork() == 0:
        _beat()
    _beat()
    return "never"


@lives(means=KILLED, contained_by=("WALL_TIMEOUT",), limits={"wall_seconds": 1.5})
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


@lives(means="exit codes come from the kernel, output on pipes of its own", outside=OF_THE_TEST)
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
    means="the first process holds nothing and is under the same filter", stopped_by=("no gain",)
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
