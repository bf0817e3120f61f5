"""How many things each of many holders has at once."""

from __future__ import annotations

from collections.abc import Sequence


class Counts:
    """Counts by key. What stands at zero takes no memory."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __getitem__(self, key: str) -> int:
        return self._counts.get(key, 0)

    def add(self, keys: Sequence[str], number: int = 1) -> None:
        """So many more for each."""
        for key in keys:
            self._counts[key] = self._counts.get(key, 0) + number

    def remove(self, keys: Sequence[str], number: int = 1) -> None:
        """So many less for each."""
        for key in keys:
            left = self._counts.get(key, 0) - number
            if left > 0:
                self._counts[key] = left
            else:
                self._counts.pop(key, None)
