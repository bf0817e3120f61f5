"""Makes text of agents and tools safe to print.

What a model or a program in the sandbox writes is not trusted: control sequences could move the
cursor over earlier lines, set the title or clipboard of the terminal, or make a link say one
thing and lead to another.
"""

import re
from enum import Enum, auto

_ESC, _BEL, _CSI, _STRING_END = "\x1b", "\x07", "\x9b", "\x9c"
# DCS, SOS, OSC, PM, APC: a string follows, up to BEL or ST.
_STRING_INTRODUCERS = frozenset("PX]^_")
_C1_STRINGS = frozenset("\x90\x98\x9d\x9e\x9f")
# Marks that make text read in another order than it is stored, and separators that some
# terminals take for line ends.
_INVISIBLE = frozenset(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
)
# Nothing to do in most pieces: this finds out at the speed of C.
_SUSPECT = re.compile(f"[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f{''.join(_INVISIBLE)}]")


class _State(Enum):
    TEXT = auto()
    ESCAPE = auto()
    CSI = auto()
    STRING = auto()
    STRING_ESCAPE = auto()


class ControlStripper:
    """Removes control sequences from text that comes in pieces.

    A sequence may be split between pieces. Newlines and tabs stay, a carriage return becomes a
    newline (so that nothing is written over), and a newline ends every sequence: at most the rest
    of one line can be swallowed.
    """

    def __init__(self) -> None:
        self._state = _State.TEXT
        self._after_return = False

    def feed(self, piece: str) -> str:
        """The printable part of the next piece."""
        if self._state is _State.TEXT and not self._after_return and not _SUSPECT.search(piece):
            return piece
        return "".join(filter(None, map(self._next, piece)))

    def _next(self, char: str) -> str:
        after_return, self._after_return = self._after_return, char == "\r"
        if char == "\n":
            self._state = _State.TEXT
            return "" if after_return else "\n"
        if char == "\r":
            self._state = _State.TEXT
            return "\n"
        if self._state is _State.TEXT:
            return self._in_text(char)
        self._state = self._in_sequence(char)
        return ""

    def _in_text(self, char: str) -> str:
        if char == _ESC:
            self._state = _State.ESCAPE
        elif char == _CSI:
            self._state = _State.CSI
        elif char in _C1_STRINGS:
            self._state = _State.STRING
        elif char == "\t" or not _is_control(char):
            return char
        return ""

    def _in_sequence(self, char: str) -> _State:
        if self._state in (_State.STRING, _State.STRING_ESCAPE):
            if char in (_BEL, _STRING_END) or (
                self._state is _State.STRING_ESCAPE and char == "\\"
            ):
                return _State.TEXT
            return _State.STRING_ESCAPE if char == _ESC else _State.STRING
        if char == _ESC:
            return _State.ESCAPE
        if self._state is _State.CSI:
            # Parameters and intermediates go on, a final byte or anything foreign ends it.
            return _State.CSI if " " <= char <= "?" else _State.TEXT
        if char == "[":
            return _State.CSI
        if char in _STRING_INTRODUCERS:
            return _State.STRING
        # Intermediates of a longer escape ("ESC ( B") go on, the final byte ends it.
        return _State.ESCAPE if " " <= char <= "/" else _State.TEXT


def strip_controls(text: str) -> str:
    """`text` without control sequences; newlines and tabs stay."""
    return ControlStripper().feed(text)


def one_line(text: str, limit: int) -> str:
    """`text` on one line of at most `limit` characters, without control sequences."""
    flat = " ".join(strip_controls(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _is_control(char: str) -> bool:
    return char < " " or "\x7f" <= char <= "\x9f" or char in _INVISIBLE
