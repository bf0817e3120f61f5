"""Good results that answer equal calls again, for a while: in the memory of this process."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from agentmesh_tool_runner.tools.reply import ReplyOutcome, ToolReply
from agentmesh_tool_runner.tools.spec import ToolSpec

from .steps import ToolCall

_OVERHEAD_BYTES: Final = 512


@dataclass(frozen=True)
class _Kept:
    reply: ToolReply
    at: float
    size: int


class KeptResults:
    """Results by tenant, tool, version and arguments; the least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def find(self, tenant: str, spec: ToolSpec, call: ToolCall) -> ToolReply | None:
        """What an equal call answered, not longer ago than this call allows."""
        key = _key(tenant, spec, call)
        kept = self._kept.get(key) if key else None
        if key is None or kept is None or time.monotonic() - kept.at >= call.cache_seconds:
            return None
        self._kept.move_to_end(key)
        return replace(kept.reply, cached=True, cpu_seconds=0.0, attempts=1)

    def keep(self, tenant: str, spec: ToolSpec, call: ToolCall, reply: ToolReply) -> None:
        """Keeps a good reply if the call's agent wants that and the tool allows it."""
        key = _key(tenant, spec, call)
        if key is None or reply.outcome is not ReplyOutcome.OK or reply.cached:
            return
        detail = json.dumps(reply.detail, default=str)
        size = len(reply.output.encode(errors="replace")) + len(detail) + _OVERHEAD_BYTES
        if size > self._max_bytes // 4:
            return
        self._drop(key)
        self._kept[key] = _Kept(reply, time.monotonic(), size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        self._bytes -= kept.size if kept else 0


def _key(tenant: str, spec: ToolSpec, call: ToolCall) -> bytes | None:
    """None if the call is not to be answered by another one's result."""
    if not call.cache_seconds or not spec.cacheable or spec.uses_workspace:
        return None
    try:
        arguments = json.dumps(json.loads(call.arguments_json or "{}"), sort_keys=True)
    except ValueError:
        return None
    text = json.dumps([tenant, spec.name, spec.origin, spec.version, arguments])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
