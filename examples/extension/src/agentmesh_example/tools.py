"""Tools: functions that models call. They run in workers of the tool runner."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib import error as errors
from urllib.request import Request, urlopen

from agentmesh_tool_runner.extension import Context, ToolFailed, tool
from pydantic import BaseModel, JsonValue

MAX_ROWS = 100


@tool(safe_to_repeat=True, cacheable=True)
def custom_tool(query: str, options: dict[str, Any] | None = None) -> str:
    """
    Custom tool for specialized functionality.

    Args:
        query: Input query
        options: Additional options: "upper" for capitals

    Returns:
        Tool execution result
    """
    result = perform_custom_operation(query, options or {})
    return f"Custom operation result: {result}"


def perform_custom_operation(query: str, options: dict[str, Any]) -> str:
    """What the tool is for."""
    words = " ".join(reversed(query.split()))
    return words.upper() if options.get("upper") else words


class Rows(BaseModel):
    """What a query found."""

    columns: list[str]
    rows: list[list[JsonValue]]
    more: bool = False


@cache
def connect(database: str) -> sqlite3.Connection:
    """One connection for each worker; it can only read."""
    return sqlite3.connect(f"file:{database}?mode=ro", uri=True, check_same_thread=False)


@tool(safe_to_repeat=True, timeout=10, concurrency=4)
def query_database(sql_query: str) -> Rows:
    """Execute SQL query safely."""
    database = os.environ.get("EXAMPLE_DATABASE", "")
    if not database:
        raise ToolFailed("Database error: EXAMPLE_DATABASE is not set")
    try:
        cursor = connect(database).execute(sql_query)
        found = cursor.fetchmany(MAX_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise ToolFailed(f"Database error: {error}") from error
    columns = [column[0] for column in cursor.description or ()]
    rows = [list(row) for row in found[:MAX_ROWS]]
    return Rows(columns=columns, rows=rows, more=len(found) > MAX_ROWS)


class ApiAnswer(BaseModel):
    """What the API said."""

    status: int
    body: JsonValue


@tool(timeout=30)
async def call_external_api(
    endpoint: str, method: Literal["GET", "POST"] = "GET", data: dict[str, Any] | None = None
) -> ApiAnswer:
    """Make API calls with proper error handling."""
    base = os.environ.get("EXAMPLE_API", "")
    if not base:
        raise ToolFailed("API call failed: EXAMPLE_API is not set")
    if not endpoint.startswith("/") or endpoint.startswith("//"):
        raise ToolFailed("API call failed: an endpoint begins with one slash")
    body = None if data is None else json.dumps(data).encode()
    headers = {"Content-Type": "application/json"}
    request = Request(base.rstrip("/") + endpoint, body, headers, method=method)  # noqa: S310
    return await asyncio.to_thread(_answer, request)


def _answer(request: Request) -> ApiAnswer:
    try:
        with urlopen(request) as response:  # noqa: S310  # the operator says where
            return ApiAnswer(status=response.status, body=json.load(response))
    except errors.HTTPError as error:
        # Overloaded: nothing was done, and the mesh may try again after a pause.
        raise ToolFailed(f"API call failed: {error}", retry=error.code == 503) from error
    except errors.URLError as error:
        raise ToolFailed(f"API call failed: {error.reason}", retry=True) from error


@tool(safe_to_repeat=True)
def read_file(file_path: str, context: Context) -> str:
    """Read file content safely."""
    allowed = os.environ.get("EXAMPLE_ALLOWED_PATHS", "docs,src").split(",")
    parts = PurePosixPath(file_path).parts
    if ".." in parts or not any(file_path.startswith(f"{folder}/") for folder in allowed):
        raise ToolFailed("Access denied: Path not allowed")
    context.progress(f"reading {file_path}")
    try:
        return context.files.read_text(file_path)
    except (OSError, ValueError) as error:
        raise ToolFailed(f"File read error: {error}") from error
