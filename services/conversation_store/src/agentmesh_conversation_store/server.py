"""Puts the service together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from agentmesh.conversation_store.v1 import approval_store_service_pb2_grpc as approvals
from agentmesh.conversation_store.v1 import blob_service_pb2_grpc as blobs
from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc as catalog
from agentmesh.conversation_store.v1 import conversation_store_service_pb2_grpc as conversations
from agentmesh.conversation_store.v1 import identity_service_pb2_grpc as identity
from agentmesh.conversation_store.v1 import ledger_service_pb2_grpc as ledger
from agentmesh.conversation_store.v1 import request_service_pb2_grpc as requests
from agentmesh.conversation_store.v1 import turn_service_pb2_grpc as turns
from agentmesh.conversation_store.v1 import workspace_service_pb2_grpc as workspaces
from meshkit.server import ServiceHost, StartupError

from .blobs.collecting import Collector
from .blobs.interface import Blobs
from .blobs.keeping import Housekeeping
from .blobs.location import Place, open_place
from .blobs.object_store import ObjectStoreBlobs
from .codec.events import ProtobufEvents
from .domain.attempts import Retries
from .domain.audit_keys import AuditKeys
from .domain.model import SECOND, Run
from .domain.rejections import Rejection
from .fanout.announcer import Announcer
from .fanout.in_process import InProcessFanout
from .fanout.interface import Fanout
from .fanout.redis import RedisFanout
from .fanout.seal import Seal
from .figures import ConversationFigures
from .identity import ApiKeys, load_pepper
from .key_uses import KeyUses
from .leasing.dispatcher import Dispatcher, LeaseTimes
from .leasing.fence_watch import FenceWatch
from .retention import Retention
from .sealing import AuditSealer, sealing_keys
from .servicers.approvals import ApprovalServicer
from .servicers.blobs import BlobServicer
from .servicers.catalog import CatalogServicer
from .servicers.conversations import ConversationServicer
from .servicers.identity import IdentityServicer
from .servicers.intake import TransferLimits
from .servicers.kept_files import KeptFiles
from .servicers.ledger import LedgerServicer
from .servicers.payloads import Payloads
from .servicers.registration import bytes_through
from .servicers.requests import RequestServicer
from .servicers.turns import TurnServicer
from .servicers.workspaces import WorkspaceServicer
from .settings import StoreSettings
from .storage.chosen import chosen_storage
from .storage.interface import Storage
from .subscriptions.feed import TenantFeeds
from .subscriptions.registry import Subscriptions

NAME = "conversation_store"
CAPABILITY_SECONDS = 24 * 3600.0
_PACKAGE = "agentmesh.conversation_store.v1"


def build(settings: StoreSettings) -> ServiceHost:
    """The service, ready to start."""
    host = ServiceHost(NAME, settings)
    audit_keys = AuditKeys(sealing_keys(settings))
    storage = chosen_storage(settings, ProtobufEvents(), audit_keys)
    fanout = _fanout(host, settings)
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
    feeds = TenantFeeds(
        storage,
        fanout,
        heartbeat=settings.heartbeat_seconds,
        head_check=settings.head_check_seconds,
    )
    dispatcher = Dispatcher(storage, fanout, _minter(host), _lease_times(settings), retries)
    fences = FenceWatch(storage, fanout, host.draining, check=settings.head_check_seconds)
    storage.on_commit(Announcer(fanout))
    storage.on_commit(ConversationFigures(host.metrics))
    kept = ObjectStoreBlobs(_blob_place(settings))
    collector = Collector(kept, storage)
    housekeeping = Housekeeping(kept, collector)
    retention = Retention(
        storage,
        collector,
        look_seconds=settings.retention_seconds,
        poll_seconds=settings.removal_poll_seconds,
    )
    uses = KeyUses(storage)
    sealer = AuditSealer(
        storage,
        audit_keys,
        every=settings.audit_seal_seconds,
        keep_days=settings.audit_retention_days,
    )
    payloads = Payloads(kept)
    kept_files = KeptFiles(storage, kept)
    turn_servicer = TurnServicer(
        storage,
        dispatcher,
        fences,
        fanout,
        host.identity,
        retries,
        host.draining,
        # What the message around a grant needs fits into the rest.
        most_grant_bytes=settings.max_message_bytes * 15 // 16,
        payloads=payloads,
        kept_files=kept_files,
    )
    _register(
        host,
        storage,
        ConversationServicer(
            storage,
            subscriptions,
            feeds,
            payloads,
            kept,
            TransferLimits.of(
                message_bytes=settings.max_message_bytes, blob_bytes=settings.max_blob_bytes
            ),
        ),
        turn_servicer,
        ApiKeys(storage, load_pepper(settings), uses.note),
    )
    _register_files(host, kept, kept_files, storage, settings)

    async def drain() -> None:
        dispatcher.drain()
        subscriptions.drain()
        feeds.drain()

    talking = (
        fanout,
        subscriptions,
        feeds,
        fences,
        dispatcher,
        housekeeping,
        retention,
        uses,
        sealer,
    )
    host.on_start += [partial(_open, storage), *(part.start for part in talking)]
    host.on_drain.append(drain)
    host.on_stop += [storage.close, *(part.stop for part in talking)]
    return host


async def _open(storage: Storage) -> None:
    try:
        await storage.open()
    except Rejection as rejection:
        raise StartupError(rejection.message) from rejection


def _blob_place(settings: StoreSettings) -> Place:
    try:
        return open_place(
            settings.blob_url, settings.blob_folder, allow_http=settings.aws_allow_http
        )
    except OSError as error:
        raise StartupError(f"no folder for blobs: {error}; see AGENTMESH_BLOB_URL") from error


def _register(
    host: ServiceHost,
    storage: Storage,
    conversation_servicer: ConversationServicer,
    turn_servicer: TurnServicer,
    keys: ApiKeys,
) -> None:
    host.add(
        bytes_through(
            conversations.add_ConversationStoreServiceServicer_to_server,
            "SubscribeConversation",
            "SubscribeTenant",
        ),
        conversation_servicer,
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
            ApprovalServicer(storage),
            "ApprovalStoreService",
        ),
        (
            ledger.add_LedgerServiceServicer_to_server,
            LedgerServicer(storage),
            "LedgerService",
        ),
        (
            requests.add_RequestServiceServicer_to_server,
            RequestServicer(storage),
            "RequestService",
        ),
    )
    for add_to_server, servicer, name in served:
        host.add(add_to_server, servicer, f"{_PACKAGE}.{name}")


def _register_files(
    host: ServiceHost,
    kept: Blobs,
    kept_files: KeptFiles,
    storage: Storage,
    settings: StoreSettings,
) -> None:
    host.add(
        workspaces.add_WorkspaceServiceServicer_to_server,
        WorkspaceServicer(storage, kept_files),
        f"{_PACKAGE}.WorkspaceService",
    )
    host.add(
        blobs.add_BlobServiceServicer_to_server,
        BlobServicer(kept, settings.max_blob_bytes),
        f"{_PACKAGE}.BlobService",
    )


def _fanout(host: ServiceHost, settings: StoreSettings) -> Fanout:
    if settings.redis_url is None:
        return InProcessFanout()
    seal = Seal(lambda: host.identity.keys_for("notices"))
    return RedisFanout(settings.redis_url.get_secret_value(), settings.redis_prefix, seal)


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
