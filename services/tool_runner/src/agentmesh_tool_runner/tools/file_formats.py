"""Formats that file_manager reads and writes: what the bytes say, and if they are well formed."""

from __future__ import annotations

import base64
import csv
import io
import json
from enum import StrEnum
from typing import Any, Final
from xml.parsers import expat

_MAX_ROWS: Final = 200
_MAX_ELEMENTS: Final = 200
_MAX_XML_DEPTH: Final = 100


class Format(StrEnum):
    """How a file's bytes are to be taken."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"
    XML = "xml"
    BASE64 = "base64"


class MalformedError(ValueError):
    """The bytes are not of the format; the message says where they break it."""


def encode(content: str, form: Format) -> bytes:
    """The bytes to write. Raises MalformedError instead of writing what nobody could read again."""
    if form is Format.BASE64:
        try:
            return base64.b64decode(content, validate=True)
        except ValueError as error:
            raise MalformedError(f"this is no base64: {error}") from None
    data = content.encode()
    describe(data, form)
    return data


def describe(data: bytes, form: Format) -> dict[str, Any]:
    """What is in a file, for programs. Raises MalformedError."""
    match form:
        case Format.JSON:
            return {"json": _json(data)}
        case Format.CSV:
            return _csv(data)
        case Format.XML:
            return {"elements": _xml(data)}
        case _:
            return {}


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedError(f"byte {error.start} is no UTF-8") from None


def _json(data: bytes) -> Any:
    try:
        return json.loads(_text(data), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedError(f"this is no JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise MalformedError("this JSON nests too deep") from None


def _refuse_constant(name: str) -> None:
    raise MalformedError(f"this is no JSON: {name} is no number of it")


def _csv(data: bytes) -> dict[str, Any]:
    """Columns of the first row, the first rows, and how many there are."""
    rows: list[list[str]] = []
    count, width = 0, 0
    try:
        for row in csv.reader(io.StringIO(_text(data), newline=""), strict=True):
            count += 1
            if count == 1:
                width = len(row)
            elif row and len(row) != width:
                raise MalformedError(f"row {count} has {len(row)} fields, the first has {width}")
            if len(rows) < _MAX_ROWS:
                rows.append(row)
    except csv.Error as error:
        raise MalformedError(f"this is no CSV: row {count + 1}: {error}") from None
    return {"columns": rows[0] if rows else [], "rows": rows[1:], "row_count": max(0, count - 1)}


def _xml(data: bytes) -> list[str]:
    """Paths of the first elements. Entities of its own are refused: they can grow without bound."""
    parser = expat.ParserCreate()
    outline = _Outline()
    parser.StartElementHandler = outline.start
    parser.EndElementHandler = outline.end
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise MalformedError(f"this is no XML: {error}") from None
    return outline.paths


def _refuse_entity(name: str, *_: object) -> None:
    raise MalformedError(f"this XML declares the entity {name!r}; that is not read")


class _Outline:
    def __init__(self) -> None:
        self.paths: list[str] = []
        self._open: list[str] = []

    def start(self, name: str, _: object) -> None:
        if len(self._open) == _MAX_XML_DEPTH:
            raise MalformedError("this XML nests too deep")
        self._open.append(name)
        if len(self.paths) < _MAX_ELEMENTS:
            self.paths.append("/".join(self._open))

    def end(self, _: str) -> None:
        self._open.pop()


def as_base64(data: bytes) -> str:
    """For binary files."""
    return base64.b64encode(data).decode()


def printable(path: str) -> str:
    """A path on one line: one with line breaks or other control characters is quoted."""
    return path if path.isprintable() and path.strip() == path else json.dumps(path)
