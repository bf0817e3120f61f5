"""Puts the service together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentmesh.conversation_store.v1 import approval_store_service_pb2_grpc as approvals
from agentmesh.conversation_store.v1 import blob_service_pb2_grpc as blobs
from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc as catalog
from agentmesh.conversation_store.v1 import conversation_store_service_pb2_grpc as conversations
from agentmesh.conversation_store.v1 import identity_service_pb2_grpc as identity
from agentmesh.conversation_store.v1 import ledger_service_pb2_grpc as ledger
from agentmesh.conversation_store.v1 import turn_service_pb2_grpc as turns
from meshkit.server import ServiceHost

from .codec.events import ProtobufEvents
from .domain.model import SECOND, Run
from .domain.turns import Retries
from .fanout.announcer import Announcer
from .fanout.in_process import InProcessFanout
from .identity import ApiKeys, load_pepper
from .leasing.dispatcher import Dispatcher, LeaseTimes
from .leasing.fence_watch import FenceWatch
from .servicers.catalog import CatalogServicer
from .servicers.conversations import ConversationServicer
from .servicers.identity import IdentityServicer
from .servicers.registration import bytes_through
from .servicers.turns import TurnServicer
from .settings import StoreSettings
from .storage.chosen import chosen_storage
from .storage.interface import Storage
from .subscriptions.registry import Subscriptions

NAME = "conversation_store"
CAPABILITY_SECONDS = 24 * 3600.0
_PACKAGE = "agentmesh.conversation_store.v1"


def build(settings: StoreSettings) -> ServiceHost:
    """The service, ready to start."""
    host = ServiceHost(NAME, settings)
    storage = chosen_storage(settings, ProtobufEvents())
    fanout = InProcessFanout()
    retries = Retries(
        settings.max_turn_failures,
        settings.max_lost_workers,
        round(settings.retry_delay_seconds * SECOND),
    )
    subscriptions = Subscriptions(
        storage,
        fanout,
        heartbeat=settings.heartbeat_seconds,
        head_check=settings.head_check_seconds,
    )
    dispatcher = Dispatcher(storage, fanout, _minter(host), _lease_times(settings), retries)
    fences = FenceWatch(storage, fanout, host.draining)
    storage.on_commit(Announcer(fanout))
    turn_servicer = TurnServicer(
        storage, dispatcher, fences, fanout, host.identity, retries, host.draining
    )
    _register(host, storage, subscriptions, turn_servicer, ApiKeys(storage, load_pepper(settings)))

    async def drain() -> None:
        dispatcher.drain()
        subscriptions.drain()

    host.on_start += [storage.open, subscriptions.start, dispatcher.start]
    host.on_drain.append(drain)
    host.on_stop += [storage.close, subscriptions.stop, dispatcher.stop]
    return host


def _register(
    host: ServiceHost,
    storage: Storage,
    subscriptions: Subscriptions,
    turn_servicer: TurnServicer,
    keys: ApiKeys,
) -> None:
    host.add(
        bytes_through(
            conversations.add_ConversationStoreServiceServicer_to_server, "SubscribeConversation"
        ),
        # The stubs call methods that are not served yet abstract; they answer UNIMPLEMENTED.
        ConversationServicer(storage, subscriptions),  # type: ignore[abstract]
        f"{_PACKAGE}.ConversationStoreService",
    )
    served = (
        (turns.add_TurnServiceServicer_to_server, turn_servicer, "TurnService"),
        (
            catalog.add_CatalogServiceServicer_to_server,
            CatalogServicer(storage),
            "CatalogService",
        ),
        (
            identity.add_IdentityServiceServicer_to_server,
            IdentityServicer(storage, keys),
            "IdentityService",
        ),
        (
            approvals.add_ApprovalStoreServiceServicer_to_server,
            _unserved(approvals.ApprovalStoreServiceServicer),
            "ApprovalStoreService",
        ),
        (
            blobs.add_BlobServiceServicer_to_server,
            _unserved(blobs.BlobServiceServicer),
            "BlobService",
        ),
        (
            ledger.add_LedgerServiceServicer_to_server,
            _unserved(ledger.LedgerServiceServicer),
            "LedgerService",
        ),
    )
    for add_to_server, servicer, name in served:
        host.add(add_to_server, servicer, f"{_PACKAGE}.{name}")


def _unserved(servicer: Any) -> object:
    """A generated servicer as it is: every method answers UNIMPLEMENTED. The stubs call it
    abstract, which it is not."""
    return servicer()


def _lease_times(settings: StoreSettings) -> LeaseTimes:
    return LeaseTimes(
        lease=settings.lease,
        renew_every=round(settings.lease_renew_seconds * SECOND),
        hand_over=round(settings.lease_hand_over_seconds * SECOND),
        poll=settings.lease_poll_seconds,
        sweep=settings.sweep_seconds,
    )


def _minter(host: ServiceHost) -> Callable[[Run], str]:
    def mint(run: Run) -> str:
        return host.identity.mint_capability(
            tenant=run.tenant,
            conversation_id=run.conversation_id,
            run_id=run.run_id,
            fence=run.fence,
            lifetime_seconds=CAPABILITY_SECONDS,
        )

    return mint
