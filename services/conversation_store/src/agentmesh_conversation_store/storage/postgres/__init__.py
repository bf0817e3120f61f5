"""Postgres: for any number of replicas."""

from .storage import PostgresStorage

__all__ = ["PostgresStorage"]
