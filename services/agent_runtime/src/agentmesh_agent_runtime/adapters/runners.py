"""Which tool_runner to call: the one that has the workspace of the conversation open, if any has.

Any other one can do the same, for files of conversations rest in the store; it only has to fetch
them first, and cannot join a call that still runs elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from agentmesh.tool_runner.v1.tool_runner_service_pb2_grpc import ToolRunnerServiceStub
from meshkit.channels import MeshChannels

if TYPE_CHECKING:
    # The generated stubs for asyncio exist for type checkers only.
    from agentmesh.tool_runner.v1.tool_runner_service_pb2_grpc import ToolRunnerServiceAsyncStub

_SERVICE: Final = "tool_runner"
_MOST_RUNNERS: Final = 64
_MOST_CONVERSATIONS: Final = 4096
CONNECT_SECONDS: Final = 1.0
"""How long a runner by its own address is waited for before any other one is asked."""


class Runners:
    """The runners behind one address, and by their own ones."""

    def __init__(self, channels: MeshChannels, address: str) -> None:
        self._channels = channels
        self._address = address
        self._any: ToolRunnerServiceAsyncStub = ToolRunnerServiceStub(
            channels.channel(address, _SERVICE)
        )
        self._near: OrderedDict[str, ToolRunnerServiceAsyncStub] = OrderedDict()
        self._places: OrderedDict[str, str] = OrderedDict()
        self._called: Counter[str] = Counter()

    def remember(self, conversation_id: str, address: str) -> None:
        """The workspace of a conversation is open at this address; nowhere known if empty."""
        self._places.pop(conversation_id, None)
        # A single runner advertises the address at which all of them are called.
        if address and address != self._address:
            self._places[conversation_id] = address
        while len(self._places) > _MOST_CONVERSATIONS:
            self._places.popitem(last=False)

    def place_of(self, conversation_id: str) -> str:
        """Where its workspace is open; empty if that is not known."""
        return self._places.get(conversation_id, "")

    @contextlib.asynccontextmanager
    async def at(self, conversation_id: str) -> AsyncIterator[ToolRunnerServiceAsyncStub]:
        """The runner to call for a conversation while the block runs."""
        address = self.place_of(conversation_id)
        self._called[address] += 1
        try:
            yield await self._stub(conversation_id, address)
        finally:
            self._called[address] -= 1
            if not self._called[address]:
                del self._called[address]

    async def _stub(self, conversation_id: str, address: str) -> ToolRunnerServiceAsyncStub:
        if not address:
            return self._any
        channel = self._channels.channel(address, _SERVICE)
        stub = self._near.pop(address, None) or ToolRunnerServiceStub(channel)
        self._near[address] = stub
        await self._drop_unused()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await channel.channel_ready()
        except TimeoutError:
            self.lose(conversation_id, address)
            return self._any
        return stub

    def lose(self, conversation_id: str, address: str) -> None:
        """The runner that had the workspace of a conversation open does not answer."""
        if self.place_of(conversation_id) == address:
            del self._places[conversation_id]

    async def _drop_unused(self) -> None:
        """Neither where a conversation is known to be, nor where a call is under way."""
        needed = {*self._places.values(), *self._called}
        unused = [address for address in self._near if address not in needed]
        for address in unused[: max(0, len(self._near) - _MOST_RUNNERS)]:
            del self._near[address]
            await self._channels.drop(address, _SERVICE)
