"""Logs: JSON lines or console text, with service and trace, without secrets."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace

from meshkit.settings import ServiceSettings

_SECRETS = re.compile(
    r"(?P<keep>\bbearer\s+)[^\s\"',;]+"
    r"|\bamk_[A-Za-z0-9_\-.]+"
    r"|\bsk-[A-Za-z0-9_\-]{8,}"
    r"|\beyJ[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]*"
    r"|(?P<url>://[^/\s:@]+:)[^/\s@]+(?=@)",
    re.IGNORECASE,
)
# Without one of these nothing above matches: most of what is logged is looked at no further.
_HINTS = ("bearer", "amk_", "sk-", "eyj", "://")
_GRPC = "grpc._cython.cygrpc"
_OF_CALLERS = ("Invalid encoding", "Failed sending error status")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """`text` without bearer tokens, API keys, JWTs and passwords in URLs."""
    folded = text.lower()
    if not any(hint in folded for hint in _HINTS):
        return text
    return _SECRETS.sub(lambda match: f"{match['keep'] or match['url'] or ''}[redacted]", text)


class _MeshFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What the line says, secrets removed."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            fields["trace_id"] = f"{context.trace_id:032x}"
            fields["span_id"] = f"{context.span_id:016x}"
        for key, value in vars(record).items():
            if key not in _STANDARD:
                plain = isinstance(value, bool | int | float) or value is None
                fields[key] = value if plain else redact(str(value))
        if record.exc_info:
            fields["exception"] = redact(self.formatException(record.exc_info))
        return fields


class JsonFormatter(_MeshFormatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        return json.dumps(self.fields(record), ensure_ascii=False)


class ConsoleFormatter(_MeshFormatter):
    """For people at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; the exception below it."""
        fields = self.fields(record)
        exception = fields.pop("exception", "")
        head = f"{fields.pop('time')[11:23]} {fields.pop('level'):7} {fields.pop('service')}"
        line = f"{head} {fields.pop('logger')}: {fields.pop('message')}"
        fields.pop("span_id", None)
        extras = "".join(f" {key}={value}" for key, value in fields.items())
        return line + extras + (f"\n{exception}" if exception else "")


def configure(service: str, settings: ServiceSettings) -> None:
    """Sends all logs of the process to stderr in the configured form, replacing other handlers."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter if settings.log_format == "json" else ConsoleFormatter
    handler.setFormatter(formatter(service))
    handler.addFilter(_is_no_doing_of_a_caller)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for noisy in ("grpc", "opentelemetry", "httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def _is_no_doing_of_a_caller(record: logging.LogRecord) -> bool:
    """gRPC reports bytes of a caller that are no text, and a caller that has left when it is
    refused, as errors with tracebacks, several for one call: strangers could fill the log."""
    if record.name != _GRPC:
        return True
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, UnicodeDecodeError) and not str(record.msg).startswith(_OF_CALLERS)
