"""Hostile requests over HTTP, as bytes that no client library would send."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from urllib.parse import quote

from agentmesh_gateway.rest.routes import Route
from agentmesh_gateway.rest.template import SegmentKind

from tests.fuzz.boundaries import BROKEN_TEXTS, TEXTS, Known, integer, known_for, text
from tests.fuzz.documents import hostile_body
from tests.fuzz.findings import random_of

EDGE = "http"
_CONTENT_TYPES = (
    b"",
    b"text/plain",
    b"application/json; charset=latin-1",
    b"application/json; charset=utf-8",
    b"multipart/form-data; boundary=x",
    b"application/x-www-form-urlencoded",
    b"application/octet-stream",
    b"application/grpc",
    b"APPLICATION/JSON;;;",
    b"\xff\xfe",
    b"application/merge-patch+json",
)
_METHODS = (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE", b"BREW")
_SIGNS = b"!#$%&'*+-.^_`|~"


@dataclass(frozen=True)
class HttpRequest:
    """One request as it goes over the wire."""

    route: Route
    head: bytes
    pieces: list[bytes]
    """Of the body, written one by one."""
    well_formed: bool
    """Whether HTTP itself is kept; else the server may hang up."""

    @property
    def is_head(self) -> bool:
        """Whether the response has no body."""
        return self.head.startswith(b"HEAD ")


def make(seed: int, number: int, routes: list[Route], known: Known) -> HttpRequest:
    """Request `number` of a run."""
    random = random_of(seed, EDGE, number)
    route = routes[number % len(routes)]
    known = known_for(random, route.method.name, known)
    path = _path(random, route, known)
    names = [field.name for field in route.request.fields]
    wanted = 0.0 if route.body == "*" and known.calm else 0.15 if route.body else 0.5
    if random.random() < wanted:
        path += b"?" + _query(random, names, known)
    method = route.http_method.encode()
    if random.random() < 0.02:
        method = random.choice(_METHODS)
    headers = _headers(random)
    body = b""
    if route.is_upload:
        body = random.randbytes(random.choice((0, 1, 100, 20_000)))
        headers.append((b"content-type", b"application/octet-stream"))
    elif route.body or random.random() < 0.05:
        body = hostile_body(random, route.request, known)
        ordinary = random.random() < 0.93
        kind = b"application/json" if ordinary else random.choice(_CONTENT_TYPES)
        headers.append((b"content-type", kind))
    framing, pieces, well_formed = _framed(random, body)
    lines = [method + b" " + path + b" HTTP/1.1", b"host: gateway"]
    lines += [name + b": " + value for name, value in headers + framing]
    if random.random() < 0.004:
        lines.insert(random.randrange(len(lines)), _bad_line(random))
        well_formed = False
    if method == b"BREW":  # the HTTP server itself answers what it does not know
        well_formed = False
    return HttpRequest(route, b"\r\n".join(lines) + b"\r\n\r\n", pieces, well_formed)


def _path(random: Random, route: Route, known: Known) -> bytes:
    variables = iter(route.template.variables)
    path = b""
    for segment in route.template.segments:
        if segment.kind is SegmentKind.LITERAL:
            path += b"/" + segment.text.encode()
            continue
        value = text(random, next(variables, ""), known).encode("utf-8", "replace")
        if random.random() < 0.03:
            value = random.choice(BROKEN_TEXTS)
        path += b"/" + quote(value[:3000], "" if random.random() < 0.9 else "/").encode()
    if random.random() < 0.03:
        path += random.choice((b"/", b"//", b"/..", b"/%2e%2e", b"%", b"%zz", b";a=b", b"/x"))
    return path


def _query(random: Random, names: list[str], known: Known) -> bytes:
    if random.random() < 0.03:
        return random.choice((b"&&==&", b"%ff%fe=1", b"a" * 8000, b"x=1&" * 300, b"%00", b"?="))
    pairs = []
    for _ in range(random.choice((1, 1, 2, 4))):
        name = random.choice([*names, "x", "filter.kinds", "conversation.title", ""])
        value = text(random, name, known) if random.random() < 0.6 else str(integer(random))
        pairs.append(f"{quote(name, '')}={quote(value[:2000].encode('utf-8', 'replace'), '')}")
    return "&".join(pairs).encode()


def _headers(random: Random) -> list[tuple[bytes, bytes]]:
    if random.random() < 0.85:
        return []
    word = random.choice(TEXTS).encode("utf-8", "replace").translate(None, b"\r\n\x00")
    some = [
        (b"authorization", random.choice((b"Bearer x", b"Bearer", b"basic x", word))),
        (b"x-api-key", word),
        (b"last-event-id", random.choice((b"-1", b"9" * 30, b"1", word))),
        (b"idempotency-key", random.choice((b"a" * 300, b"key-1", word))),
        (b"x-request-id", word),
        (b"accept", random.choice((b"text/event-stream", b"*/*;q=x", word))),
        (b"range", b"bytes=5-1"),
        (b"if-match", word),
        (b"traceparent", random.choice((b"00-0-0-0", b"ff" * 40, word))),
        (b"x-forwarded-for", b"1.2.3.4, evil"),
        (b"x-agentmesh-internal", b"x"),
        (b"accept-encoding", b"gzip;q=9"),
        (b"content-encoding", b"gzip"),
        (b"origin", b"null"),
        (b"x-" + bytes(random.choices(_SIGNS, k=5)), b"\xe9\xff"),
        (b"x-long", b"y" * random.choice((10, 8000))),
    ]
    return random.choices(some, k=random.randrange(1, 4))


def _framed(random: Random, body: bytes) -> tuple[list[tuple[bytes, bytes]], list[bytes], bool]:
    """How the body is announced, the pieces that are written, and whether that keeps to HTTP."""
    length = [(b"content-length", str(len(body)).encode())]
    chunked = [(b"transfer-encoding", b"chunked")]
    dice = random.random()
    if not body:
        return (length if dice < 0.3 else []), [], True
    if dice < 0.85:
        return length, [body], True
    if dice < 0.985:
        size = random.choice((1, 7, 1000)) if len(body) < 200 else max(100, len(body) // 4)
        cuts = [body[at : at + size] for at in range(0, len(body), size)]
        framed = [b"%x\r\n%s\r\n" % (len(cut), cut) for cut in cuts] + [b"0\r\n\r\n"]
        return chunked, framed if dice < 0.9 else [b"".join(framed)], True
    if dice < 0.99:
        return chunked, [random.choice((b"zz\r\n", b"-1\r\n", b"f" * 20 + b"\r\n"))], False
    if dice < 0.995:
        return length + chunked, [b"0\r\n\r\n"], False
    return [*length, (b"content-length", b"7")], [body], False


def _bad_line(random: Random) -> bytes:
    return random.choice(
        (
            b"no colon",
            b": no name",
            b"a b: c",
            b"GET / HTTP/9.9",
            b"x: \x00",
            b" folded",
            b"content-length: -1",
            b"content-length: 99999999999999999999",
            b"transfer-encoding: gzip, identity",
            b"expect: 100-continue",
            b"upgrade: h2c",
        )
    )


async def written(request: HttpRequest, writer: asyncio.StreamWriter) -> None:
    """Sends it. A server may have hung up in the middle."""
    writer.write(request.head + (request.pieces[0] if request.pieces else b""))
    for piece in request.pieces[1:]:
        await writer.drain()
        writer.write(piece)
    await writer.drain()
