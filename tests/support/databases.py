"""Real Postgres and Redis servers for tests and measurements.

    with PostgresServer() as postgres, RedisServer() as redis:
        settings = {"POSTGRES_URL": postgres.create_database(), "REDIS_URL": redis.url}

Tests take the fixtures `postgres_url` and `redis_url`, or `postgres_server` and `redis_server`
(tests/support/database_fixtures.py); they may make servers of their own to kill them.
"""

from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.server_process import ProgramMissingError, ServerFailedError

__all__ = ["PostgresServer", "ProgramMissingError", "RedisServer", "ServerFailedError"]
