"""What full-text search finds: how texts fall into words, and what a query means.

Words are made here, not by the databases, so that every database finds the same: folded to one
form of case and width, and cut where neither a letter, a digit nor a mark stands. In scripts that
put no spaces between words each character is a word of its own, and a run of them is a phrase.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

LONGEST_WORD = 64
"""Characters: what follows is not compared."""
MOST_PLACES = 16_000
"""Words of a text that phrases are found in; the rest of it is found by single words."""
MOST_PLACES_OF_A_WORD = 256
"""Of how many occurrences of one word in a text phrases are found."""
MOST_BYTES = 512 * 1024
"""Of all different words of a text together."""

_ASCII_WORD = re.compile("[a-z0-9]+")
_CHUNK = re.compile(r'(-?)"([^"]*)"?(\*?)|([^\s"]+)')
_PLANES_WITH_MARKS = 0x20000  # beyond them there are only variation selectors
_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003fffd"
)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one text. `placed` are its first ones in order, "" where a word is left out
    because it occurred too often; `further` are found wherever they stand."""

    placed: tuple[str, ...] = ()
    further: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.placed)


@dataclass(frozen=True, slots=True)
class Term:
    """Words that follow each other; with `prefix` the last one only has to begin so."""

    words: tuple[str, ...]
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class TextQuery:
    """Fits a text that has every wanted term and no excluded one. Without a wanted term it fits
    none."""

    wanted: tuple[Term, ...] = ()
    excluded: tuple[Term, ...] = ()


def words_of(text: str) -> Words:
    """The words of a text, as far as they are indexed."""
    words = _words(text)
    if len(words) <= MOST_PLACES_OF_A_WORD:
        return Words(tuple(words))
    placed: list[str] = []
    seen: Counter[str] = Counter()
    room = MOST_BYTES
    further: dict[str, None] = {}
    for word in words:
        if word not in seen:
            room -= len(word.encode())
            if room < 0:
                break
        if len(placed) < MOST_PLACES:
            seen[word] += 1
            placed.append(word if seen[word] <= MOST_PLACES_OF_A_WORD else "")
        elif word not in seen:
            seen[word] = 1
            further[word] = None
    return Words(tuple(placed), tuple(further))


def parse_query(text: str) -> TextQuery:
    """What a query asks for: words, "quoted phrases", -exclusions and begin* of words.

    Every text is a query: what has no word in it asks for nothing.
    """
    terms: dict[bool, dict[Term, None]] = {False: {}, True: {}}
    for minus, quoted, star, bare in _CHUNK.findall(text):
        if bare:
            excluded, prefix = bare.startswith("-"), bare.endswith("*")
        else:
            excluded, prefix = bool(minus), bool(star)
        words = tuple(_words(bare or quoted))
        if words:
            terms[excluded][Term(words, prefix)] = None
    return TextQuery(tuple(terms[False]), tuple(terms[True]))


def _words(text: str) -> list[str]:
    if text.isascii():
        found = _ASCII_WORD.findall(text.lower())
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        found = _word().findall(folded)
    return [word[:LONGEST_WORD] for word in found]


@functools.cache
def _word() -> re.Pattern[str]:
    mark = f"[{_marks()}]"
    letter = "[^\\W_]"
    lone = f"[{_WITHOUT_SPACES}]"
    return re.compile(f"(?={letter}){lone}{mark}*|(?:(?!{lone}){letter}|{mark})+")


def _marks() -> str:
    """The marks that belong to the letter before them, as ranges of a pattern."""
    ranges: list[list[int]] = []
    for code in range(0x80, _PLANES_WITH_MARKS):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
