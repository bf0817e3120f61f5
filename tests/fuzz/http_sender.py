"""Sends HTTP requests over connections that stay open, and judges the answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any

from tests.fuzz.findings import Findings
from tests.fuzz.http_requests import EDGE, HttpRequest, written

_HANG_SECONDS = 60.0
_ACCEPTED = {200, 204, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 501}
_MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Answer:
    """A response, as far as it was read."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    whole: bool


class HttpSender:
    """One connection, opened anew when the server or a stream ends it."""

    def __init__(self, host: str, port: int, findings: Findings) -> None:
        self._address = host, port
        self._findings = findings
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, number: int, request: HttpRequest) -> None:
        """One request; returns when it is answered."""
        method = request.route.rpc
        try:
            async with asyncio.timeout(_HANG_SECONDS):
                answer = await self._exchange(request)
        except TimeoutError:
            await self.close()
            self._findings.blame(EDGE, number, f"{method} hangs", request)
            self._findings.note(method, "HANG")
            return
        if answer is None:
            if request.well_formed:
                self._findings.blame(EDGE, number, f"{method} is not answered", request)
            self._findings.note(method, "closed")
            return
        self._findings.note(method, str(answer.status))
        problem = _problem(request, answer)
        if problem:
            what = f"{method} answers {answer.status} {problem}: {answer.body[:300]!r}"
            self._findings.blame(EDGE, number, what, request)

    async def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, request: HttpRequest) -> Answer | None:
        """The answer; None if the server hung up instead."""
        reused = self._streams is not None
        for _ in range(2):
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._address)
            reader, writer = self._streams
            # What a server said before it hung up may still be read.
            with contextlib.suppress(ConnectionError):
                await written(request, writer)
            try:
                answer = await _read_answer(reader, head_only=request.is_head)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                answer = None
            left = answer is None or not answer.whole or not request.well_formed
            if left or (answer and answer.headers.get(b"connection") == b"close"):
                await self.close()
            if answer is not None or not reused:
                return answer
            reused = False  # an idle connection may be closed by the server at any time
        return None


async def _read_answer(reader: asyncio.StreamReader, *, head_only: bool) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    status = int(lines[0].split(b" ")[1])
    if status == 100:  # "go on"; the answer follows
        return await _read_answer(reader, head_only=head_only)
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in lines[1:] if line)
    }
    if head_only or status in (204, 304):
        return Answer(status, headers, b"", whole=True)
    if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        return Answer(status, headers, await reader.read(1000), whole=False)
    if headers.get(b"transfer-encoding") == b"chunked":
        body, whole = await _read_chunks(reader)
        return Answer(status, headers, body, whole)
    length = int(headers.get(b"content-length", b"0"))
    return Answer(status, headers, await reader.readexactly(length), whole=True)


async def _read_chunks(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    body = b""
    while len(body) < _MOST_BYTES:
        size = int((await reader.readuntil(b"\r\n")).strip(), 16)
        body += (await reader.readexactly(size + 2))[:size]
        if not size:
            return body, True
    return body, False


def _problem(request: HttpRequest, answer: Answer) -> str:
    """What is wrong with an answer."""
    if answer.status not in _ACCEPTED:
        health = request.route.rpc.endswith("Health") and answer.status == 503
        return "" if health else "which is no answer to bad input"
    if b"Traceback" in answer.body:
        return "with a traceback"
    if answer.status < 400 or request.is_head:
        return ""
    if not request.well_formed:
        return ""  # the HTTP server itself may answer
    return _problem_of_error(answer)


def _problem_of_error(answer: Answer) -> str:
    try:
        error: dict[str, Any] = json.loads(answer.body)["error"]
        details: list[dict[str, Any]] = error["details"]
        reason = details[0]["reason"]
    except (ValueError, KeyError, TypeError, IndexError):
        return "without an error body"
    if error["code"] != answer.status:
        return "with another status in the body"
    if reason in ("INTERNAL", "UNSPECIFIED"):
        return "without a reason"
    named = any(detail.get("field_violations") for detail in details)
    needs = error.get("status") == "INVALID_ARGUMENT" and reason != "MALFORMED_BODY"
    return "without field violations" if needs and not named else ""
