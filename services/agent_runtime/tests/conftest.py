"""A model server that really serves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.model_server import ModelServer


@pytest_asyncio.fixture
async def model_server() -> AsyncIterator[ModelServer]:
    """A running model server."""
    async with ModelServer() as server:
        yield server
