"""The network address that the current call comes from, as far as it is known."""

from __future__ import annotations

from contextvars import ContextVar
from urllib.parse import unquote

_address: ContextVar[str] = ContextVar("meshkit_caller_address", default="")


def find_caller_address() -> str:
    """An IP address without port; "unix" for a local socket, "" if nobody knows."""
    return _address.get()


def enter_caller_address(address: str) -> None:
    """Says where the call comes from that the running task serves, for the rest of the task."""
    _address.set(address)


def address_of_peer(peer: str) -> str:
    """The address in what gRPC calls a peer: "10.0.0.7" of "ipv4:10.0.0.7:4711"; "" of others."""
    scheme, _, rest = peer.partition(":")
    if scheme == "ipv4":
        return rest.rpartition(":")[0]
    if scheme == "ipv6":
        host = unquote(rest).rpartition(":")[0].strip("[]")
        return host.partition("%")[0].removeprefix("::ffff:") if "." in host else host
    return "unix" if scheme.startswith("unix") else ""


def peer_of_address(address: str) -> str:
    """An address as gRPC writes a peer, without a port: "ipv4:10.0.0.7"."""
    if address == "unix":
        return "unix:"
    return f"ipv6:[{address}]" if ":" in address else f"ipv4:{address}"
