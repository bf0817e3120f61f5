"""What launcher and service say to each other: JSON over SOCK_SEQPACKET, descriptors beside it."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

MESSAGE_BYTES = 192 * 1024
MAX_DESCRIPTORS = 56
# Descriptors the sandbox process is given, in order of arrival, after stdin, stdout and stderr.
FIRST_EXTRA_DESCRIPTOR = 3
STATUS_DESCRIPTOR = 62
BLOCK_DESCRIPTOR = 63
# Where a sandbox's own mounts of /tmp and /dev/shm are, below the folder that workspaces are in.
TEMPORARY_FOLDERS = ("temporary", "shared")


def send(channel: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Raises OSError as `sendmsg` does."""
    socket.send_fds(channel, [json.dumps(message).encode()], descriptors)


def receive(channel: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """A message and its descriptors; None at the end of the channel."""
    try:
        data, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, MAX_DESCRIPTORS)
    except ConnectionError:
        return None, []
    return (json.loads(data) if data else None), descriptors
