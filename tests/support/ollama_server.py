"""A real HTTP server that speaks Ollama's wire format, for tests; used as ModelServer is.

The format has tool arguments as objects only, so a call's must be JSON here.
"""

from __future__ import annotations

import json
from typing import Any

from typing_extensions import override

from tests.support.model_server import Fault, ModelServer, Reply


class OllamaServer(ModelServer):
    """Usage: one token for each word that was asked and for each piece that was answered."""

    PATHS = ("/api/chat",)
    CONTENT_TYPE = "application/x-ndjson"
    SUFFIX = ""
    GARBAGE = b"{this is no JSON\n"
    LAST_FRAME = b""
    BYTES = b'{"message": {"content": "\xff\xfe"}}\n'
    PING = b'{"message": {"content": ""}}\n'

    @override
    def frames(self, reply: Reply, body: dict[str, Any], number: int) -> list[bytes]:
        messages: list[dict[str, Any]] = [
            {"content": "", "thinking": f"{word} "} for word in reply.reasoning.split()
        ]
        messages += [{"content": piece} for piece in reply.pieces()]
        for call in reply.tool_calls:
            function = {"name": call.name, "arguments": json.loads(call.arguments)}
            messages.append({"content": "", "tool_calls": [{"function": function}]})
        last: dict[str, Any] = {"done": True, "done_reason": reply.finish_reason or "stop"}
        if reply.usage:
            last["prompt_eval_count"] = sum(
                len(str(message["content"]).split()) for message in body["messages"]
            )
            last["eval_count"] = len(messages)
            if reply.counts is not None:
                last["prompt_eval_count"], last["eval_count"] = reply.counts
        chunks = [{"message": {"role": "assistant", **message}} for message in messages]
        chunks.append({"message": {"role": "assistant", "content": ""}, **last})
        head = {"model": body["model"], "created_at": "2025-01-01T00:00:00Z", "done": False}
        return [_line({**head, **chunk}) for chunk in chunks]

    @override
    def error(self, fault: Fault) -> dict[str, Any]:
        return {"error": fault.message}

    @override
    def error_frame(self, fault: Fault) -> bytes:
        return _line({"error": fault.message})


def _line(data: dict[str, Any]) -> bytes:
    return f"{json.dumps(data)}\n".encode()
