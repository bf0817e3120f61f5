"""Ports of a mesh on one machine."""

import random
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path

from agentmesh_cli.errors import CliError

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_FREE_CHOICE = 10_000


@dataclass(frozen=True)
class MeshPorts:
    """The port of every listener of a mesh."""

    gateway: int = 50051
    conversation_store: int = 50052
    agent_runtime: int = 50053
    tool_runner: int = 50054
    rest: int = 8000

    @classmethod
    def starting_at(cls, grpc_port: int, rest_port: int) -> "MeshPorts":
        """The gateway at `grpc_port`, the services behind it at the three ports above."""
        return cls(grpc_port, grpc_port + 1, grpc_port + 2, grpc_port + 3, rest_port)


def free_ports(host: str) -> MeshPorts:
    """Five ports nobody listens on, below those that the kernel gives to outgoing connections.

    From that range no connection can take the port of a service while it is being restarted.
    """
    ceiling = _first_ephemeral_port()
    with ExitStack() as held:
        chosen: list[int] = []
        for port in random.sample(range(_LOWEST_FREE_CHOICE, ceiling), 400):
            listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                listener.bind((host, port))
            except OSError:
                continue
            chosen.append(port)
            if len(chosen) == len(astuple(MeshPorts())):
                return MeshPorts(*chosen)
    raise CliError(f"no free ports on {host} between {_LOWEST_FREE_CHOICE} and {ceiling}")


def require_free(host: str, ports: Iterable[int]) -> None:
    """Raises CliError that names every port of `ports` that somebody listens on."""
    taken = [port for port in ports if not _is_free(host, port)]
    if taken:
        names = ", ".join(map(str, taken))
        raise CliError(
            f"port {names} on {host} is in use" if len(taken) == 1 else f"ports {names} are in use",
            remedy="use --any-port, or choose with --grpc-port and --rest-port",
        )


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # A port in TIME_WAIT is free to a server; only a listener counts.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
        return True


def _first_ephemeral_port() -> int:
    try:
        first = int(_EPHEMERAL_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    # A machine may give nearly all ports to connections; then the choice is only likely to last.
    return first if first > _LOWEST_FREE_CHOICE + 1000 else 32_768
