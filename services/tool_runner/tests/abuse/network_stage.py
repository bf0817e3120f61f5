"""A network of the test's own: a namespace with servers at the addresses that attacks reach for.

Run as root by `unshare --net python -m ... KIND BOUND FOLDER ENGINE`.
Prints how each attack ended outside and inside, as one JSON object.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentmesh_tool_runner.sandbox.model import WorkspaceKey

from .attacks.attack import SETTINGS_VARIABLE
from .stage import PYTHON, archive, inside, of_family

PORT, LISTEN, METADATA, DNS, PUBLIC, EVERYBODY = 8080, 8081, 80, 53, 443, 7777
ABSTRACT = "agentmesh-abuse"
GREETING = b"greetings from the host"
ADDRESSES = ("169.254.169.254", "10.0.0.5", "203.0.113.7")
ADDRESSES_OF_IPV6 = ("fd00:ec2::254",)
HARMLESS, REBOUND = "203.0.113.7", "127.0.0.1"
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _IFF_UP = 0x8914, 0x8916, 0x891C, 1


def raise_loopback() -> None:
    """Loopback, with every address of the stage on it."""
    assert [name for _, name in socket.if_nameindex()] == ["lo"], "not a namespace of its own"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for number, address in enumerate(ADDRESSES):
            name = f"lo:{number}".encode()
            for request, value in (
                (_SIOCSIFADDR, address),
                (_SIOCSIFNETMASK, "255.255.255.0"),
            ):
                packed = struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(value))
                fcntl.ioctl(any_socket, request, packed)
        flags = struct.pack("16sH14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, flags)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as any_socket:
        for address in ADDRESSES_OF_IPV6:
            packed = struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, address), 128, 1)
            fcntl.ioctl(any_socket, _SIOCSIFADDR, packed)


def bind_when_ready(server: socket.socket, address: tuple[str, int]) -> None:
    """The kernel looks a moment for duplicates of a new address of IPv6 before it is there."""
    for _ in range(500):
        try:
            return server.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            time.sleep(0.01)
    raise TimeoutError(address)


def greet(server: socket.socket) -> None:
    """Greets whoever connects."""

    def serve() -> None:
        while True:
            client, _ = server.accept()
            with client:
                client.sendall(GREETING)

    server.listen()
    threading.Thread(target=serve, daemon=True).start()


def serve_names() -> None:
    """A name server whose answers for rebind.attacker.example differ from one to the next."""
    answers = itertools.cycle([HARMLESS, REBOUND])

    def answer(question: bytes) -> bytes:
        address = next(answers) if b"rebind" in question else HARMLESS
        record = struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(address)
        return question[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0) + question[12:] + record

    def serve_datagrams() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.53", DNS))
            while True:
                question, asker = server.recvfrom(512)
                server.sendto(answer(question), asker)

    def serve_streams(server: socket.socket) -> None:
        while True:
            client, _ = server.accept()
            with client:
                client.sendall(b"\0\0" + answer(client.recv(512)[2:]))

    streams = socket.create_server(("127.0.0.53", DNS))
    for target, arguments in ((serve_datagrams, ()), (serve_streams, (streams,))):
        threading.Thread(target=target, args=arguments, daemon=True).start()


def answer_everybody() -> None:
    """Answers a broadcast."""

    def serve() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            server.bind(("", EVERYBODY))
            while True:
                _, asker = server.recvfrom(512)
                server.sendto(GREETING, asker)

    threading.Thread(target=serve, daemon=True).start()


def visit() -> None:
    """Connects to where an attack may listen, again and again."""
    pause = threading.Event()

    def knock() -> None:
        while True:
            try:
                socket.create_connection(("127.0.0.1", LISTEN), timeout=1).close()
            except OSError:
                pause.wait(0.05)

    threading.Thread(target=knock, daemon=True).start()


def start_servers(folder: Path) -> dict[str, Any]:
    """Starts them all; returns what attackers are told of them."""
    raise_loopback()
    for address, port in (
        ("127.0.0.1", PORT),
        ("169.254.169.254", METADATA),
        ("10.0.0.5", PORT),
        ("203.0.113.7", PUBLIC),
    ):
        greet(socket.create_server((address, port)))
    for address, port in (("::1", PORT), ("fd00:ec2::254", METADATA)):
        server = socket.socket(socket.AF_INET6)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bind_when_ready(server, (address, port))
        greet(server)
    for name in ("\0" + ABSTRACT, str(folder / "socket")):
        server = socket.socket(socket.AF_UNIX)
        server.bind(name)
        greet(server)
    serve_names()
    answer_everybody()
    visit()
    return {
        "port": PORT,
        "listen": LISTEN,
        "abstract": ABSTRACT,
        "socket_file": str(folder / "socket"),
    }


def attack_outside(names: list[str], settings: dict[str, Any], folder: Path) -> str:
    """In this namespace, without a sandbox."""
    program = folder / "abuse.zip"
    program.write_bytes(archive())
    told = json.dumps(settings | {"outside": True})
    done = subprocess.run(
        [PYTHON, str(program), *names],
        env={SETTINGS_VARIABLE: told},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


async def attack_inside(make: Callable[[], Any], names: list[str], settings: dict[str, Any]) -> str:
    backend = make()
    await backend.start()
    try:
        workspace = await backend.workspace(WorkspaceKey("hostile", "conv_network"))
        return (await inside(backend, workspace, names, settings)).stdout
    finally:
        await backend.close()


def main() -> None:
    from ..sandbox.conftest import make_backend  # noqa: TID252 - the tests are one tree
    from .conftest import options_of

    kind, bound, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    options = options_of(bound)
    if kind == "docker":
        # The one that runs already; its containers have networks of their own all the same.
        options["engine"] = sys.argv[4]
    names = of_family("network", alone=False)
    settings = start_servers(folder)
    outside = attack_outside(names, settings, folder)

    def make() -> Any:
        return make_backend(kind, folder / "data", **options)

    told = asyncio.run(attack_inside(make, names, settings))
    print(json.dumps({"outside": outside, "inside": told}))  # noqa: T201


if __name__ == "__main__":
    main()
