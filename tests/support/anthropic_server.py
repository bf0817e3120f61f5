"""A real HTTP server that speaks Anthropic's wire format, for tests; used as ModelServer is."""

from __future__ import annotations

import json
from typing import Any

from typing_extensions import override

from tests.support.model_server import Fault, ModelServer, Reply

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
CACHED = 2
"""Tokens of each prompt that were read from the server's cache."""


class AnthropicServer(ModelServer):
    """Usage: one token for each word that was asked and for each piece that was answered."""

    PATHS = ("/v1/messages",)
    SUFFIX = ""
    LAST_FRAME = b""
    BYTES = b'event: content_block_delta\ndata: {"type": "\xff\xfe"}\n\n'
    PING = b'event: ping\ndata: {"type": "ping"}\n\n'

    @override
    def frames(self, reply: Reply, body: dict[str, Any], number: int) -> list[bytes]:
        blocks: list[list[dict[str, Any]]] = []
        if reply.reasoning:
            thoughts = [{"type": "thinking_delta", "thinking": t} for t in _words(reply.reasoning)]
            thoughts.append({"type": "signature_delta", "signature": "signed"})
            blocks.append([{"type": "thinking", "thinking": "", "signature": ""}, *thoughts])
        if reply.pieces():
            said = [{"type": "text_delta", "text": piece} for piece in reply.pieces()]
            blocks.append([{"type": "text", "text": ""}, *said])
        for index, call in enumerate(reply.tool_calls):
            call_id = call.call_id or f"toolu_{number}_{index}"
            middle = len(call.arguments) // 2
            halves = "", call.arguments[:middle], call.arguments[middle:]
            parts = [{"type": "input_json_delta", "partial_json": half} for half in halves]
            block = {"type": "tool_use", "id": call_id, "name": call.name, "input": {}}
            blocks.append([block, *parts])
        return [
            _event("message_start", message=_start(reply, body, number)),
            _event("ping"),
            *(frame for index, block in enumerate(blocks) for frame in _block(index, block)),
            _event("message_delta", **_end(reply)),
            _event("message_stop"),
        ]

    @override
    def error(self, fault: Fault) -> dict[str, Any]:
        kind = fault.code or _ERRORS.get(fault.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": fault.message}}

    @override
    def error_frame(self, fault: Fault) -> bytes:
        kind = fault.code or "overloaded_error"
        return _event("error", error={"type": kind, "message": fault.message})


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def _words(text: str) -> list[str]:
    return [f"{word} " for word in text.split(" ")]


def _start(reply: Reply, body: dict[str, Any], number: int) -> dict[str, Any]:
    asked = sum(len(json.dumps(message["content"]).split()) for message in body["messages"])
    usage: dict[str, Any] = {
        "input_tokens": asked if reply.counts is None else reply.counts[0],
        "cache_read_input_tokens": CACHED,
        "cache_creation_input_tokens": 0,
        "output_tokens": 1,
    }
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
        "usage": usage if reply.usage else {},
    }


def _block(index: int, block: list[dict[str, Any]]) -> list[bytes]:
    start, *deltas = block
    return [
        _event("content_block_start", index=index, content_block=start),
        *(_event("content_block_delta", index=index, delta=delta) for delta in deltas),
        _event("content_block_stop", index=index),
    ]


def _end(reply: Reply) -> dict[str, Any]:
    reason = reply.finish_reason or ("tool_use" if reply.tool_calls else "end_turn")
    said = len(reply.pieces()) + len(reply.reasoning.split()) + len(reply.tool_calls)
    end: dict[str, Any] = {"delta": {"stop_reason": reason, "stop_sequence": None}}
    counted = said if reply.counts is None else reply.counts[1]
    return end | ({"usage": {"output_tokens": counted}} if reply.usage else {})
