"""HTTP/2 and gRPC as bytes: frames that break the rules of either, and floods of frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.fuzz.connections import Attack

_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(
    10
)
_END_STREAM, _END_HEADERS, _PADDED, _WITH_PRIORITY, _ACK = 0x1, 0x4, 0x8, 0x20, 0x1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SERVICE = b"/agentmesh.gateway.v1.ConversationService/"
_FLOOD = 2000


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame; its length is that of the payload."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers_block(*pairs: tuple[bytes, bytes]) -> bytes:
    """Header fields in HPACK, each literal and in no table."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in pairs)


def call_headers(path: bytes = _SERVICE + b"GetConversation", **changed: bytes) -> bytes:
    """The head of a call. `changed` says what other value a field has; b"" is none."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"gateway",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    for name, value in changed.items():
        key = name.replace("_", "-").encode()
        fields[b":" + key if b":" + key in fields else key] = value
    return headers_block(*((name, value) for name, value in fields.items() if value))


def _string(value: bytes) -> bytes:
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, out = len(value) - 127, bytearray(b"\x7f")
    while rest >= 128:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes(out) + bytes([rest]) + value


def _message(content: bytes, flag: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BI", flag, len(content) if length is None else length) + content


_HELLO = _PREFACE + frame(_SETTINGS)
_HEAD = frame(_HEADERS, _END_HEADERS, 1, call_headers())
_ASKING = b"\x0a\x06conv_1"


def attacks() -> Iterator[Attack]:
    """Every kind once."""
    yield Attack("nothing", [])
    yield Attack("half a preface", [_PREFACE[:11]])
    yield Attack("no preface", [b"\x00" * 64])
    yield Attack("a TLS hello", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 300])
    yield Attack("HTTP/1.1", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"])
    for name, sent in _FRAMES.items():
        yield Attack(name, [_HELLO, sent])
    for name, head in _HEADS.items():
        asked = frame(_DATA, _END_STREAM, 1, _message(_ASKING))
        yield Attack(f"head: {name}", [_HELLO + frame(_HEADERS, _END_HEADERS, 1, head) + asked])
    for name, data in _BODIES.items():
        yield Attack(f"body: {name}", [_HELLO + _HEAD, frame(_DATA, _END_STREAM, 1, data)])
    byte_by_byte = _HELLO + _HEAD + frame(_DATA, _END_STREAM, 1, _message(_ASKING))
    yield Attack("byte by byte", [bytes([byte]) for byte in byte_by_byte])
    yield Attack(
        "a body that does not end", [_HELLO + _HEAD, frame(_DATA, 0, 1, _message(b"")[:3])]
    )
    many = frame(_HEADERS, _END_HEADERS, 1, call_headers(_SERVICE + b"Converse"))
    many += frame(_DATA, 0, 1, b"".join(_message(bytes([n % 256] * 9)) for n in range(500)))
    yield Attack("a stream of messages that are none", [_HELLO + many])


def _settings(*pairs: tuple[int, int]) -> bytes:
    return frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def _calls_that_are_reset() -> bytes:
    head = call_headers(_SERVICE + b"SubscribeConversation")
    return b"".join(
        frame(_HEADERS, _END_HEADERS, stream, head) + frame(_RST, 0, stream, b"\0\0\0\x08")
        for stream in range(1, 2 * 1000, 2)
    )


_FRAMES = {
    "settings of a wrong length": frame(_SETTINGS, 0, 0, b"1234567"),
    "settings on a stream": frame(_SETTINGS, 0, 1),
    "an acknowledgement that says something": frame(_SETTINGS, _ACK, 0, b"123456"),
    "a window beyond its bound": _settings((4, 2**31)),
    "a tiny frame size": _settings((5, 1)),
    "a huge frame size": _settings((5, 2**32 - 1)),
    "a push that is neither on nor off": _settings((2, 7)),
    "settings nobody knows": _settings(*((n, n) for n in range(100, 1000))),
    "a flood of settings": frame(_SETTINGS) * _FLOOD,
    "no window at all": _settings((4, 0), (3, 0), (6, 0)) + _HEAD,
    "data on no stream": frame(_DATA, 0, 0, b"x"),
    "data on a stream that is not open": frame(_DATA, 0, 7, b"x"),
    "data after the end": _HEAD + frame(_DATA, _END_STREAM, 1) * 2,
    "a stream of the server's": frame(_HEADERS, _END_HEADERS, 2, call_headers()),
    "streams that go backwards": frame(_HEADERS, _END_HEADERS, 9, call_headers()) + _HEAD,
    "the last stream there is": frame(_HEADERS, _END_HEADERS, 2**31 - 1, call_headers()),
    "a head that is not continued": frame(_HEADERS, 0, 1, call_headers()[:20]) + frame(_PING, 0, 0),
    "a head without an end": frame(_HEADERS, 0, 1, call_headers()),
    "continuations of nothing": frame(_CONTINUATION, _END_HEADERS, 1, b""),
    "a flood of continuations": frame(_HEADERS, 0, 1, call_headers())
    + frame(_CONTINUATION, 0, 1, headers_block((b"x", b"y" * 90))) * _FLOOD,
    "a flood of empty continuations": frame(_HEADERS, 0, 1) + frame(_CONTINUATION, 0, 1) * _FLOOD,
    "a flood of empty data": _HEAD + frame(_DATA, 0, 1) * _FLOOD,
    "a flood of calls that are reset": _calls_that_are_reset(),
    "a flood of resets": _HEAD + frame(_RST, 0, 1, b"\0\0\0\x08") * _FLOOD,
    "a reset of nothing": frame(_RST, 0, 0, b"\0\0\0\0"),
    "a flood of pings": frame(_PING, 0, 0, b"12345678") * _FLOOD,
    "a ping of a wrong length": frame(_PING, 0, 0, b"1"),
    "a promise of the client's": _HEAD
    + frame(_PUSH, _END_HEADERS, 1, b"\0\0\0\2" + call_headers()),
    "a stream that depends on itself": frame(_PRIORITY, 0, 3, b"\0\0\0\3\x10"),
    "a window that does not open": frame(_WINDOW, 0, 0, b"\0\0\0\0"),
    "windows that open too far": frame(_WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 3,
    "a window update of a wrong length": frame(_WINDOW, 0, 0, b"\0"),
    "going away and going on": frame(_GOAWAY, 0, 0, b"\0" * 8) + _HEAD,
    "more padding than frame": frame(_DATA, _PADDED, 1, b"\xff1"),
    "a padded head of nothing": frame(
        _HEADERS, _PADDED | _WITH_PRIORITY | _END_HEADERS, 1, b"\xff"
    ),
    "a frame that is too long": b"\xff\xff\xff" + struct.pack(">BBI", _DATA, 0, 1) + b"x" * 70_000,
    "frames of no kind": b"".join(frame(kind, 0xFF, 5, b"??") for kind in range(10, 256)),
    "an index beyond the tables": frame(_HEADERS, _END_HEADERS, 1, b"\xff\xff\xff\x7f"),
    "a number without an end": frame(_HEADERS, _END_HEADERS, 1, b"\xff" * 200),
    "a table as large as can be": frame(_HEADERS, _END_HEADERS, 1, b"\x3f" + b"\xff" * 4 + b"\x0f"),
    "a string of broken Huffman": frame(_HEADERS, _END_HEADERS, 1, b"\x00\x85\xff\xff\xff\xff\xff"),
    "a string that goes on elsewhere": frame(_HEADERS, _END_HEADERS, 1, b"\x00\x7f\xff\x01abc"),
}
_HEADS = {
    "nothing": b"",
    "no method": call_headers(method=b""),
    "another method": call_headers(method=b"GET"),
    "no path": call_headers(path=b""),
    "a path of anything": call_headers(path=b"/\xff\x00 \r\n"),
    "a path of nobody's": call_headers(path=b"/a.B/C"),
    "a long path": call_headers(path=b"/" + b"a" * 20_000),
    "no content type": call_headers(content_type=b""),
    "another content type": call_headers(content_type=b"text/html"),
    "a codec of nobody's": call_headers(content_type=b"application/grpc+json"),
    "no trailers": call_headers(te=b""),
    "an encoding of nobody's": call_headers(grpc_encoding=b"zstd"),
    "a timeout that is none": call_headers(grpc_timeout=b"soon"),
    "a timeout that is over": call_headers(grpc_timeout=b"0n"),
    "a timeout of ages": call_headers(grpc_timeout=b"99999999H"),
    "bytes that are no base64": call_headers(x_a_bin=b"\xff*"),
    "two paths": call_headers() + headers_block((b":path", b"/x")),
    "upper case": call_headers() + headers_block((b"X-Upper", b"y")),
    "a connection header": call_headers() + headers_block((b"connection", b"close")),
    "an empty name": call_headers() + headers_block((b"", b"y")),
    "a line break in a value": call_headers() + headers_block((b"x", b"a\r\nb: c")),
    "many fields": call_headers() + headers_block(*[(b"x-%d" % n, b"y") for n in range(900)]),
    "long fields": call_headers() + headers_block((b"x", b"y" * 16_000)),
}
_BODIES = {
    "nothing": b"",
    "less than it says": _message(_ASKING, length=100),
    "as much as can be said": _message(_ASKING, length=2**32 - 1),
    "more than it says": _message(_ASKING, length=2),
    "half a prefix": _message(_ASKING)[:3],
    "compressed and not said how": _message(_ASKING, flag=1),
    "a flag that is none": _message(_ASKING, flag=0x7F),
    "two messages": _message(_ASKING) * 2,
    "a message that is none": _message(b"\xff" * 50),
    "empty messages": _message(b"") * 1000,
}
