"""WebSockets as bytes: handshakes and frames that break the rules, and text that is no request."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

from tests.fuzz.connections import Attack

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_MASK = b"\x01\x02\x03\x04"
_FLOOD = 1000


def handshake(path: bytes = b"/conversations/converse", **changed: bytes) -> bytes:
    """The request that opens a socket. `changed` says what other value a header has; b"" is none
    at all."""
    headers = {
        b"host": b"localhost",
        b"upgrade": b"websocket",
        b"connection": b"Upgrade",
        b"sec-websocket-key": _KEY,
        b"sec-websocket-version": b"13",
    }
    headers |= {name.replace("_", "-").encode(): value for name, value in changed.items()}
    lines = [b"GET " + path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in headers.items() if value]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def frame(
    kind: int,
    payload: bytes = b"",
    *,
    last: bool = True,
    masked: bool = True,
    reserved: int = 0,
    length: int | None = None,
) -> bytes:
    """One frame; `length` is what it says of its payload."""
    size = len(payload) if length is None else length
    mask = 0x80 if masked else 0
    out = bytes([last << 7 | reserved << 4 | kind])
    if size < 126:
        out += bytes([mask | size])
    elif size < 65536:
        out += struct.pack(">BH", mask | 126, size)
    else:
        out += struct.pack(">BQ", mask | 127, size)
    if not masked:
        return out + payload
    return out + _MASK + bytes(byte ^ _MASK[at % 4] for at, byte in enumerate(payload))


def attacks() -> Iterator[Attack]:
    """Every kind once."""
    for name, sent in _HANDSHAKES.items():
        yield Attack(f"handshake: {name}", [sent])
    for name, sent in _FRAMES.items():
        yield Attack(f"frames: {name}", [handshake(), sent])
    for name, text in _TEXTS.items():
        yield Attack(f"text: {name}", [handshake(), frame(_TEXT, text), frame(_CLOSE)])
    whole = handshake() + frame(_TEXT, b'{"ping": {}}') + frame(_CLOSE, b"\x03\xe8")
    yield Attack("byte by byte", [bytes([byte]) for byte in whole])
    yield Attack("all at once", [whole * 3])
    yield Attack("requests whose answers nobody reads", [handshake(), _PINGS * _FLOOD])


_PINGS = frame(_TEXT, b'{"ping": {}}')
_HANDSHAKES = {
    "no key": handshake(sec_websocket_key=b""),
    "a short key": handshake(sec_websocket_key=b"YQ=="),
    "a key that is none": handshake(sec_websocket_key=b"\xff*"),
    "two keys": handshake(sec_websocket_key=_KEY + b"\r\nsec-websocket-key: " + _KEY),
    "no version": handshake(sec_websocket_version=b""),
    "another version": handshake(sec_websocket_version=b"7"),
    "no connection": handshake(connection=b"keep-alive"),
    "another protocol": handshake(upgrade=b"h2c"),
    "two protocols": handshake(upgrade=b"websocket, h2c"),
    "another method": handshake().replace(b"GET", b"POST", 1),
    "a body": handshake(content_length=b"5") + b"hello",
    "chunks": handshake(transfer_encoding=b"chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    "extensions": handshake(sec_websocket_extensions=b"permessage-deflate; x=\x22, \xff"),
    "subprotocols": handshake(sec_websocket_protocol=b"agentmesh.v1, agentmesh.bearer.x y, ,"),
    "many subprotocols": handshake(sec_websocket_protocol=b"agentmesh.v1" + b", a" * 5000),
    "a path of anything": handshake(b"/conversations/%ff%00%2f/converse"),
    "a long path": handshake(b"/conversations/" + b"a" * 9000 + b"/converse"),
    "a path of nothing": handshake(b"/agents"),
    "an origin that is none": handshake(origin=b"\xff://"),
    "half": handshake()[:60],
}
_FRAMES = {
    "not masked": frame(_TEXT, b'{"ping": {}}', masked=False),
    "fragments": b"".join(
        frame(_TEXT if not at else _CONTINUATION, b'{"ping": {}}'[at : at + 1], last=at == 11)
        for at in range(12)
    ),
    "fragments with a ping between": frame(_TEXT, b'{"ping"', last=False)
    + frame(_PING, b"x")
    + frame(_CONTINUATION, b": {}}"),
    "fragments without a beginning": frame(_CONTINUATION, b"x"),
    "a beginning within fragments": frame(_TEXT, b"{", last=False) + frame(_TEXT, b"}"),
    "fragments without an end": frame(_TEXT, b"", last=False)
    + frame(_CONTINUATION, last=False) * 5000,
    "text cut within a letter": frame(_TEXT, b'{"\xc3', last=False)
    + frame(_CONTINUATION, b'\xa9": 1}'),
    "text that is none": frame(_TEXT, b'"\xff\xfe\xed\xa0\x80"'),
    "bytes": frame(_BINARY, b"\x0a\x00"),
    "a control frame in fragments": frame(_PING, b"x", last=False) + frame(_CONTINUATION, b"y"),
    "a long control frame": frame(_PING, b"x" * 126),
    "a flood of pings": frame(_PING, b"x" * 125) * _FLOOD,
    "a flood of pongs": frame(_PONG) * _FLOOD,
    "reserved bits": frame(_TEXT, b"{}", reserved=7),
    "kinds of nobody's": b"".join(frame(kind, b"x") for kind in (3, 7, 11, 15)),
    "a length beyond all": frame(_TEXT, b"x", length=2**63),
    "ten gigabytes announced": frame(_TEXT, b"x" * 1000, length=10 * 2**30),
    "more than may be sent": frame(_TEXT, b" " * (5 * 2**20)),
    "more than may be sent, in fragments": frame(_TEXT, b"[", last=False)
    + frame(_CONTINUATION, b" " * 65_000, last=False) * 80,
    "a close with half a code": frame(_CLOSE, b"\x03"),
    "a close with a code that is none": frame(_CLOSE, struct.pack(">H", 1005)),
    "a close with a code of no kind": frame(_CLOSE, struct.pack(">H", 65535)),
    "a close whose reason is no text": frame(_CLOSE, b"\x03\xe8\xff\xff"),
    "a close twice, and text after it": frame(_CLOSE) * 2 + _PINGS,
    "half a frame": frame(_TEXT, b"x" * 500)[:40],
    "HTTP": handshake(),
}
_TEXTS = {
    "nothing": b"",
    "no JSON": b"{",
    "nested arrays": b"[" * 100_000,
    "nested objects": b'{"open":' * 20_000,
    "a nested struct": b'{"open": {"start": {"metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5003,
    "a long number": b'{"open": {"after_sequence": ' + b"9" * 100_000 + b"}}",
    "a number of no size": b'{"open": {"after_sequence": 1e999}}',
    "no number": b'{"open": {"after_sequence": NaN}}',
    "half a letter": b'{"open": {"conversation_id": "\\ud800"}}',
    "a zero in a text": b'{"open": {"conversation_id": "\\u0000"}}',
    "a name twice": b'{"ping": {}, "ping": {}}',
    "many names": json.dumps({f"x{n}": n for n in range(5000)}).encode(),
    "two commands": b'{"ping": {}, "finish": {}}',
    "all of another type": b'{"request_id": [], "open": "x", "ping": 1}',
    "null": b"null",
    "a long id": b'{"request_id": "' + b"a" * 100_000 + b'", "ping": {}}',
}
