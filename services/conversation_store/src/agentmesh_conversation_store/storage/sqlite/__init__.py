"""The storage interface on SQLite, for one machine."""

from .storage import SqliteStorage

__all__ = ["SqliteStorage"]
