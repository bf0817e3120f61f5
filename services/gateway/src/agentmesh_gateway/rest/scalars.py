"""Scalars between protobuf and JSON.

64-bit integers are JSON numbers while every JSON reader holds them exactly (below 2^53), and
strings beyond; both are read. Bytes are base64; the URL-safe alphabet and missing padding are
read too.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

_SAFE_INTEGER = 2**53
_RANGES: dict[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_SPECIAL_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_LONGEST_NUMBER = 64


class WrongValueError(ValueError):
    """A JSON value does not fit its field; the message says what would."""


def _encode_int64(value: int) -> int | str:
    return value if -_SAFE_INTEGER < value < _SAFE_INTEGER else str(value)


def _encode_double(value: float) -> float | str:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _encode_float(value: float) -> float | str:
    # The shortest decimal that reads back as the same 32-bit number.
    if not math.isfinite(value):
        return _encode_double(value)
    for digits in range(6, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("f", short) == struct.pack("f", value):
            return short
    return value


def _encode_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def scalar_encoder(field: FieldDescriptor) -> Callable[[Any], Any] | None:
    """How values of a scalar `field` become JSON; None if they do as they are."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _encode_bytes
    if field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64):
        return _encode_int64
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return _encode_double
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return _encode_float
    return None


def _decode_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise WrongValueError("must be true or false")


def _decode_string(value: object) -> str:
    if not isinstance(value, str):
        raise WrongValueError("must be a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise WrongValueError("must be valid Unicode; it holds half a surrogate pair") from None
    return value


def _decode_bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise WrongValueError("must be a string of base64")
    text = value.translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise WrongValueError("must be a string of base64") from None


def _decode_double(value: object) -> float:
    if isinstance(value, str):
        if value in _SPECIAL_FLOATS:
            return _SPECIAL_FLOATS[value]
        if len(value) > _LONGEST_NUMBER or value != value.strip() or "_" in value:
            raise WrongValueError("must be a number")
        try:
            value = float(value)
        except ValueError:
            raise WrongValueError("must be a number") from None
        if not math.isfinite(value):
            raise WrongValueError("must be a number")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongValueError("must be a number")
    try:
        return float(value)
    except OverflowError:
        raise WrongValueError("is too large for a number") from None


def _decode_float(value: object) -> float:
    number = _decode_double(value)
    if math.isfinite(number) and abs(number) > 3.4028234663852886e38:
        raise WrongValueError("is too large for a 32-bit number")
    return number


def _integer_decoder(low: int, high: int) -> Callable[[object], int]:
    def decode(value: object) -> int:
        if isinstance(value, str):
            digits = value.removeprefix("-")
            if not (digits.isascii() and digits.isdigit()) or len(value) > _LONGEST_NUMBER:
                raise WrongValueError("must be an integer")
            value = int(value)
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise WrongValueError("must be an integer")
        if not low <= value <= high:
            raise WrongValueError(f"must be between {low} and {high}")
        return value

    return decode


def scalar_decoder(field: FieldDescriptor) -> Callable[[object], Any]:
    """How JSON becomes a value of a scalar `field`; raises `WrongValueError`."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _decode_bytes
    if field.cpp_type in _RANGES:
        return _integer_decoder(*_RANGES[field.cpp_type])
    return {
        FieldDescriptor.CPPTYPE_BOOL: _decode_bool,
        FieldDescriptor.CPPTYPE_STRING: _decode_string,
        FieldDescriptor.CPPTYPE_DOUBLE: _decode_double,
        FieldDescriptor.CPPTYPE_FLOAT: _decode_float,
    }[field.cpp_type]


def parse_query_scalar(field: FieldDescriptor, text: str) -> object:
    """The JSON value that `text` of a query string or path means for a scalar `field`."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    return text
