"""The launcher: a small resident process that starts sandboxes and is their parent.

Runs as `python -I -S`, standard library only, one thread: a service that
holds gRPC threads and much memory should not fork, and a process that only waits can be trusted to
clean up. It owns a mount namespace (and, for an ordinary user, a user namespace) in which
workspaces are mounted as size-bounded tmpfs, invisible to the rest of the host. When its control
socket closes, because the service ended or was killed, it kills every sandbox and exits.

Control messages are JSON over SOCK_SEQPACKET, descriptors travel beside them. Requests carry
`call`; its answer repeats the number with `result` or `error` (an errno). A started sandbox is
reported once more when it ends: `{"ended": name, "code": exit code, "cpu": seconds, "peak":
bytes}`; without a code if the program was never started or the sandbox was killed around it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from . import child, enclosure, kernel
from .launcher_protocol import TEMPORARY_FOLDERS, receive, send

START_MILLISECONDS = 5000
GROUP_TRIES = 200


class Sandbox:
    """A running bwrap: its own process, and the first inside once bwrap told which it is."""

    def __init__(self, name: str, pid: int, status: int) -> None:
        self.name = name
        self.pid = pid
        self.status = status
        self.inner = -1
        self.told = b""
        self.status_ended = False

    def read_status(self) -> dict[str, Any]:
        """What bwrap has said on `--json-status-fd`: `child-pid` first, `exit-code` at the end."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.status, 4096):
                self.told += piece
            self.status_ended = True
        known: dict[str, Any] = {}
        for line in self.told.split(b"\n")[:-1]:
            known.update(json.loads(line))
        return known

    def take_inner(self) -> int | None:
        """The first process inside, once told; keeps a pidfd of it."""
        pid = self.read_status().get("child-pid")
        if pid is not None and self.inner < 0:
            with contextlib.suppress(ProcessLookupError):
                self.inner = os.pidfd_open(pid)
        return pid

    def kill(self) -> None:
        """Kills the sandbox's pid namespace through its first process, and bwrap."""
        if self.inner >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.inner, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)

    def release(self) -> None:
        for descriptor in (self.status, self.inner):
            if descriptor >= 0:
                os.close(descriptor)
        self.status = self.inner = -1


class Launcher:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.sandboxes: dict[int, Sandbox] = {}
        self.spares: dict[str, tuple[int, socket.socket]] = {}
        self.groups: set[Path] = set()
        self.poll = select.poll()
        self.base = ""

    def serve(self) -> NoReturn:
        wake_up, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # A Ctrl-C in the terminal is the service's to handle; it closes the socket when it is done.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.poll.register(self.control, select.POLLIN)
        self.poll.register(wake_up, select.POLLIN)
        while True:
            for descriptor, _ in self.poll.poll():
                if descriptor == self.control.fileno():
                    self.receive()
                elif descriptor == wake_up:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_up, 4096)
                    self.reap()
                else:
                    self.learn_inner(descriptor)

    def receive(self) -> None:
        request, descriptors = receive(self.control)
        if request is None:
            self.end()
        try:
            answer, attached = self.answer(request, descriptors)
        except OSError as error:
            answer, attached = {"error": error.errno or errno.EIO, "detail": str(error)}, []
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        answer["call"] = request["call"]
        self.send(answer, attached)
        for descriptor in attached:
            os.close(descriptor)

    def send(self, message: dict[str, Any], descriptors: list[int]) -> None:
        try:
            send(self.control, message, descriptors)
        except ConnectionError:
            self.end()

    def answer(
        self, request: dict[str, Any], descriptors: list[int]
    ) -> tuple[dict[str, Any], list[int]]:
        match request["do"]:
            case "prepare":
                self.base = request["base"]
                if request["sandlock"] is not None:
                    enclosure.load(request["sandlock"])
                kernel.enter_namespaces(self.base)
                for name in TEMPORARY_FOLDERS:
                    Path(f"{self.base}/{name}").mkdir()
                return {"result": None}, []
            case "mount":
                return {"result": None}, [self.mount(request)]
            case "unmount":
                kernel.unmount(f"{self.base}/{request['name']}")
                return {"result": None}, []
            case "spare":
                self.keep_spare(request)
                return {"result": None}, []
            case "start":
                return {"result": self.start(request, descriptors)}, []
            case "kill":
                self.kill(request["name"])
                return {"result": None}, []
        raise OSError(errno.ENOSYS, request["do"])

    def mount(self, request: dict[str, Any]) -> int:
        path = f"{self.base}/{request['name']}"
        Path(path).mkdir(mode=0o755)
        options = f"mode=0700,size={request['size']},nr_inodes={request['files']}"
        if request["uid"] is not None:
            options += f",uid={request['uid']},gid={request['uid']}"
        try:
            kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        except OSError:
            Path(path).rmdir()
            raise
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def kill(self, name: str) -> None:
        if name in self.spares:
            pid, channel = self.spares.pop(name)
            channel.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for sandbox in self.sandboxes.values():
            if sandbox.name == name:
                sandbox.kill()

    def keep_spare(self, request: dict[str, Any]) -> None:
        """Forks a child that waits in its groups for the start of the same name."""
        self.remember_groups(request)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            child.wait_as_spare(theirs, request["member_files"], launcher)
        theirs.close()
        self.spares[request["name"]] = pid, ours

    def remember_groups(self, request: dict[str, Any]) -> None:
        """Where the groups of the service's executions are, in each hierarchy."""
        self.groups |= {Path(file).parents[1] for file in request["member_files"]}

    def start(self, request: dict[str, Any], descriptors: list[int]) -> int:
        self.remember_groups(request)
        status_read, status_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        late = request["late_limits"]
        block = os.pipe2(os.O_CLOEXEC) if late else None
        try:
            pid = self.become(request, descriptors, status_write, block[0] if block else -1)
        finally:
            os.close(status_write)
            if block:
                os.close(block[0])
        sandbox = Sandbox(request["name"], pid, status_read)
        self.sandboxes[pid] = sandbox
        if block:
            try:
                self.bound_before_release(sandbox, late, request["uid"], block[1])
            finally:
                os.close(block[1])
        else:
            self.poll.register(status_read, select.POLLIN)
        return pid

    def become(
        self, request: dict[str, Any], descriptors: list[int], status: int, block: int
    ) -> int:
        """Turns the spare of that name into the sandbox, or a new child; returns its pid."""
        if request["name"] in self.spares:
            pid, channel = self.spares.pop(request["name"])
            with channel:
                send(channel, request, [*descriptors, status, *([block] if block >= 0 else [])])
            return pid
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            child.become_sandbox(request, descriptors, status, block, launcher)
        return pid

    def bound_before_release(
        self, sandbox: Sandbox, late: list[list[int]], uid: int | None, release: int
    ) -> None:
        """Sets limits on the first inner process, then lets bwrap go on to the program.

        RLIMIT_NPROC counts per user namespace, and what holds when a namespace is made also binds
        its parent: set earlier, one sandbox's bound would count every other sandbox too.
        """
        waiting = select.poll()
        waiting.register(sandbox.status, select.POLLIN)
        inner = None
        # bwrap tells it in several pieces.
        while inner is None and waiting.poll(START_MILLISECONDS) and not sandbox.status_ended:
            inner = self.tell_inner(sandbox)
        if inner is None:
            sandbox.kill()
            return
        try:
            kernel.limit_process(inner, late, uid)
            os.write(release, b"1")
        except OSError:
            sandbox.kill()
            raise

    def tell_inner(self, sandbox: Sandbox) -> int | None:
        inner = sandbox.take_inner()
        if inner is not None:
            self.send({"inner": sandbox.name, "pid": inner}, [])
        return inner

    def learn_inner(self, descriptor: int) -> None:
        for sandbox in self.sandboxes.values():
            if sandbox.status != descriptor:
                continue
            if self.tell_inner(sandbox) is not None or sandbox.status_ended:
                self.poll.unregister(descriptor)

    def reap(self) -> None:
        while True:
            try:
                pid, _, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            sandbox = self.sandboxes.pop(pid, None)
            if sandbox is None:
                self.forget_spare(pid)
                continue
            sandbox.kill()
            with contextlib.suppress(KeyError):
                self.poll.unregister(sandbox.status)
            code = sandbox.read_status().get("exit-code")
            sandbox.release()
            self.send(
                {
                    "ended": sandbox.name,
                    "code": code,
                    "cpu": usage.ru_utime + usage.ru_stime,
                    "peak": usage.ru_maxrss * 1024,
                },
                [],
            )

    def forget_spare(self, pid: int) -> None:
        for name, (spare, channel) in list(self.spares.items()):
            if spare == pid:
                channel.close()
                del self.spares[name]

    def end(self) -> NoReturn:
        for sandbox in self.sandboxes.values():
            sandbox.kill()
        for spare, channel in self.spares.values():
            channel.close()
            os.kill(spare, signal.SIGKILL)
        for pid in (*self.sandboxes, *(spare for spare, _ in self.spares.values())):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self.remove_groups()
        os._exit(0)

    def remove_groups(self) -> None:
        """Of a service that was killed and so cannot; the last of their members may be dying."""
        for _ in range(GROUP_TRIES):
            for parent in list(self.groups):
                with contextlib.suppress(OSError):
                    for group in (folder for folder in parent.iterdir() if folder.is_dir()):
                        group.rmdir()
                    parent.rmdir()
                if not parent.exists():
                    self.groups.discard(parent)
            if not self.groups:
                return
            time.sleep(0.01)


def main() -> NoReturn:
    """Serves the control socket whose descriptor is the first argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    os.umask(0o077)
    Launcher(control).serve()
