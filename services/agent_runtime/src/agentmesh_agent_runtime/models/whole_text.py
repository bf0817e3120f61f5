"""Text of model servers as Unicode: JSON may hold halves of characters, and streams part them."""

from __future__ import annotations

_REPLACEMENT = "\ufffd"


class TextStream:
    """A text that comes in pieces. Halves that belong together are joined over their border."""

    def __init__(self) -> None:
        self._held = ""

    def whole(self, piece: str) -> str:
        """What of the text is certain now."""
        text = self._held + piece
        self._held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return valid(text[:-1] if self._held else text)

    def rest(self) -> str:
        """What was held back for a half that did not come."""
        held, self._held = self._held, ""
        return _REPLACEMENT if held else ""


def valid(text: str) -> str:
    """The text with halves of characters joined, or replaced if they are alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
