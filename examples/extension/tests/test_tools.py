"""The tools by themselves: they are functions, and a context is a dataclass that a test fills."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from agentmesh_example.tools import call_external_api, custom_tool, query_database, read_file
from agentmesh_tool_runner.extension import Context, ToolFailed


def context(files: dict[str, str], said: list[str]) -> Context:
    return Context(
        agent="researcher",
        tool_call_id="call_1",
        traceparent="",
        deadline=time.monotonic() + 30,
        log=logging.getLogger("test"),
        say=said.append,
        files=cast(Any, SimpleNamespace(read_text=files.__getitem__)),
    )


def test_the_custom_tool_answers() -> None:
    assert custom_tool("a b") == "Custom operation result: b a"
    assert custom_tool("a b", {"upper": True}) == "Custom operation result: B A"


def test_the_database_is_read_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ToolFailed, match="EXAMPLE_DATABASE"):
        query_database("SELECT 1")
    file = tmp_path / "facts.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE facts (name TEXT, n INTEGER)")
        database.executemany("INSERT INTO facts VALUES ('Ada', ?)", [(n,) for n in range(101)])
        database.commit()
    monkeypatch.setenv("EXAMPLE_DATABASE", str(file))
    found = query_database("SELECT n, name FROM facts")
    assert (found.columns, found.rows[1], found.more) == (["n", "name"], [1, "Ada"], True)
    for query in ("DELETE FROM facts", "nonsense", "SELECT 1; SELECT 2"):
        with pytest.raises(ToolFailed, match="Database error"):
            query_database(query)


class Api(BaseHTTPRequestHandler):
    """Says what it heard, or that it is busy."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if self.path == "/echo" else 503)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - likewise
        """Says nothing."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("EXAMPLE_API", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


async def test_the_api_is_called_and_its_failures_told(
    api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await call_external_api("/echo", "POST", {"a": 1})
    assert (answer.status, answer.body) == (200, {"a": 1})
    with pytest.raises(ToolFailed, match="503") as busy:
        await call_external_api("/busy", "POST", {})
    assert busy.value.retry
    with pytest.raises(ToolFailed, match="slash"):
        await call_external_api("//elsewhere/")
    monkeypatch.setenv("EXAMPLE_API", "http://127.0.0.1:9")
    with pytest.raises(ToolFailed) as nobody:
        await call_external_api("/echo", "POST", {})
    assert nobody.value.retry


def test_files_are_read_where_that_is_allowed() -> None:
    said: list[str] = []
    given = context({"docs/a.txt": "text"}, said)
    assert read_file("docs/a.txt", given) == "text"
    assert said == ["reading docs/a.txt"]
    for path in ("plan.json", "docs/../plan.json", "/etc/passwd"):
        with pytest.raises(ToolFailed, match="Access denied"):
            read_file(path, given)
