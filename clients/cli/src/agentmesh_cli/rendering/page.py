"""Where rendered conversations go: a console, with marks and colours that it can show."""

from dataclasses import dataclass

from rich.console import Console
from rich.status import Status
from rich.text import Text

_PALETTE = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")


@dataclass(frozen=True)
class Marks:
    """The few signs that are not letters."""

    speaker: str = "▌"
    call: str = "→"
    output: str = "┆"
    good: str = "✓"
    bad: str = "✗"
    note: str = "·"
    again: str = "↺"
    question: str = "?"


_ASCII_MARKS = Marks("*", "->", "|", "ok", "FAILED", "-", "~", "?")


class Page:
    """Writes lines, and text that grows within a line.

    `live` says whether whoever reads sees text grow, as on a terminal. There a spinner turns below
    the last line while nothing is being written. Nothing that is written here is ever taken for
    markup.
    """

    def __init__(self, console: Console, *, live: bool | None = None) -> None:
        self.console = console
        self.live = console.is_terminal if live is None else live
        self.marks = _ASCII_MARKS if console.options.ascii_only else Marks()
        self._colours: dict[str, str] = {}
        self._status: Status | None = None
        self._at_line_start = True

    def colour(self, speaker: str) -> str:
        """The colour of a speaker: the next one of the palette when it first speaks."""
        return self._colours.setdefault(speaker, _PALETTE[len(self._colours) % len(_PALETTE)])

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Writes one line; parts are text, or text and style."""
        self.end_line()
        self.console.print(Text.assemble(*parts), soft_wrap=True)

    def block(self, text: str, gutter: str, style: str = "") -> None:
        """Writes lines of text, each behind `gutter`, so that none can pass for a line of ours."""
        for line in text.split("\n"):
            self.line((gutter if line else gutter.rstrip(), "dim"), (line, style))

    def grow(self, text: str, gutter: str, style: str = "") -> None:
        """Writes text that more will follow within the same line."""
        self.rest()
        out = Text()
        for piece in text.splitlines(keepends=True):
            if self._at_line_start:
                out.append(gutter, "dim")
            out.append(piece, style)
            self._at_line_start = piece.endswith("\n")
        self.console.print(out, end="", soft_wrap=True)

    def end_line(self) -> None:
        """Ends a line that was growing."""
        if not self._at_line_start:
            self._at_line_start = True
            self.console.print()

    def wait(self, what: str) -> None:
        """Says below the last line what is being waited for."""
        if not self.console.is_terminal or not self._at_line_start:
            return
        if self._status is None:
            self._status = self.console.status(Text(what, style="dim"), spinner="dots")
            self._status.start()
        else:
            self._status.update(Text(what, style="dim"))

    def rest(self) -> None:
        """Stops saying what is being waited for."""
        if self._status is not None:
            self._status.stop()
            self._status = None
