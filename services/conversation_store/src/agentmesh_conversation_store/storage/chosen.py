"""The storage that the settings ask for."""

from __future__ import annotations

from agentmesh_conversation_store.domain.audit_keys import AuditKeys
from agentmesh_conversation_store.settings import StoreSettings

from .interface import EventCodec
from .postgres import PostgresStorage
from .sql.storage import SqlStorage
from .sqlite import SqliteStorage


def chosen_storage(settings: StoreSettings, codec: EventCodec, audit_keys: AuditKeys) -> SqlStorage:
    """Postgres where POSTGRES_URL is set, else the file in the data directory."""
    if settings.postgres_url is None:
        return SqliteStorage(
            settings.database_file,
            codec,
            readers=settings.sqlite_readers,
            audit_keys=audit_keys,
        )
    return PostgresStorage(
        settings.postgres_url.get_secret_value(),
        codec,
        writers=settings.postgres_writers,
        readers=settings.postgres_readers,
        timeout=settings.postgres_timeout_seconds,
        migrating=settings.migrate_at_start,
        audit_keys=audit_keys,
    )
