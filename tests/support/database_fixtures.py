"""Fixtures of database servers, for every test of the repository.

A server starts when the first test wants it and serves until the run ends. Whoever stops or kills
a shared server starts it again before the test ends. Without a server the test is skipped, which a
strict run takes for a failure.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.databases import PostgresServer, ProgramMissingError, RedisServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A Postgres server that all tests share, with its data in memory if there is room."""
    try:
        server = PostgresServer(in_memory=True)
    except ProgramMissingError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server that all tests share."""
    try:
        server = RedisServer()
    except ProgramMissingError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database of the shared server, owned by an ordinary role; dropped afterwards."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database of the shared server; channels are common to all databases."""
    return redis_server.create_database()
