"""Connections whose bytes nobody should send, and what must not come back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tests.fuzz.findings import Findings

_AT_ONCE = 16
_QUIET_SECONDS = 0.1
"""Nothing came for so long: whatever is to be said was said."""
_PATIENCE_SECONDS = 30.0
_MOST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Attack:
    """What one connection sends, piece by piece."""

    name: str
    pieces: Sequence[bytes]


def broken(random: Random, attack: Attack) -> Attack:
    """The same with some bits turned over, a part left out, repeated or cut off."""
    sent = bytearray(b"".join(attack.pieces)[:20_000])
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        at = random.randrange(len(sent) + 1)
        until = min(len(sent), at + random.choice((1, 1, 4, 9, 200)))
        dice = random.randrange(5)
        if dice == 0:
            sent[at:at] = random.randbytes(random.choice((1, 4, 30)))
        elif dice == 1:
            sent[at:until] = b""
        elif dice == 2:
            sent[at:at] = sent[at:until] * random.choice((1, 3, 50))
        elif until > at:
            sent[at] ^= 1 << random.randrange(8)
    cuts = sorted(random.randrange(len(sent) + 1) for _ in range(random.choice((0, 1, 3))))
    pieces = [bytes(sent[a:b]) for a, b in itertools.pairwise([0, *cuts, len(sent)])]
    return Attack(f"{attack.name}, broken", pieces)


async def strike(
    address: tuple[str, int], edge: str, attacks: Iterable[Attack], findings: Findings
) -> None:
    """Opens a connection for each of `attacks`, some at a time."""
    numbered: Iterator[tuple[int, Attack]] = iter(enumerate(attacks))
    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(_worker(address, edge, numbered, findings))


async def _worker(
    address: tuple[str, int],
    edge: str,
    numbered: Iterator[tuple[int, Attack]],
    findings: Findings,
) -> None:
    for number, attack in numbered:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                answer = await _exchange(address, attack)
        except TimeoutError:
            findings.blame(edge, number, f"{attack.name} hangs", attack.pieces)
            answer = b""
        findings.note(f"{edge}: {attack.name}", "answered" if answer else "silent")
        if problem := _problem(answer):
            findings.blame(edge, number, f"{attack.name} {problem}: {answer[-300:]!r}", attack)


async def _exchange(address: tuple[str, int], attack: Attack) -> bytes:
    """Whatever the server says until it hangs up or is quiet."""
    reader, writer = await asyncio.open_connection(*address)
    reading = asyncio.create_task(_read(reader))
    try:
        with contextlib.suppress(ConnectionError):
            for piece in attack.pieces:
                writer.write(piece)
                # A server that reads no more is no defect, if it says no more either.
                draining = asyncio.create_task(writer.drain())
                await asyncio.wait({draining, reading}, return_when=asyncio.FIRST_COMPLETED)
                if not draining.done():
                    draining.cancel()
                    break
                draining.result()
        return await reading
    finally:
        reading.cancel()
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionError, TimeoutError):
        while len(received) < _MOST_BYTES:
            async with asyncio.timeout(_QUIET_SECONDS):
                piece = await reader.read(65536)
            if not piece:
                break
            received += piece
    return bytes(received)


def _problem(answer: bytes) -> str:
    if b"Traceback" in answer:
        return "is answered with a traceback"
    if answer.startswith(b"HTTP/1.1 5"):
        return "is answered as a defect"
    # A close frame of the server with the code 1011.
    if b"\x03\xf3" in answer[-130:] and b"\x88" in answer[-130:]:
        return "closes as a defect"
    return ""
