"""ConversationStoreService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from agentmesh.conversation.v1 import conversation_pb2, event_pb2, stream_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as pb
from agentmesh.conversation_store.v1 import conversation_store_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import current_principal
from meshkit.errors import MeshError
from meshkit.ids import new_id
from meshkit.telemetry import current_traceparent

from agentmesh_conversation_store.blobs.interface import Blobs
from agentmesh_conversation_store.codec import values
from agentmesh_conversation_store.codec.resources import conversation_message, pinned_agents
from agentmesh_conversation_store.domain import conversations as domain
from agentmesh_conversation_store.domain.access import owned
from agentmesh_conversation_store.domain.events import UserMessage
from agentmesh_conversation_store.domain.model import (
    ConversationFacts,
    ConversationStatus,
    Strategy,
)
from agentmesh_conversation_store.domain.usage import Budget
from agentmesh_conversation_store.storage.interface import EventFilter, Storage
from agentmesh_conversation_store.subscriptions.feed import TenantFeeds
from agentmesh_conversation_store.subscriptions.registry import Subscriptions
from agentmesh_conversation_store.subscriptions.subscriber import Until

from . import histories, sharing
from .admittance import by_caller, caller, owner_of, require_access, visibility_of
from .conversation_pages import conversations_page
from .event_pages import EventPages
from .exporting import exported
from .import_body import ImportBody, import_response
from .importing import imported
from .intake import IMPORTS_AT_ONCE, Slots, TransferLimits
from .payloads import Payloads
from .rejections import answers_rejections, streams_rejections
from .repeatable import carry_out

FULL_NAME = "agentmesh.conversation_store.v1.ConversationStoreService"

_STRATEGIES = {
    pb.DELIVERY_STRATEGY_UNSPECIFIED: Strategy.AFTER_TURN,
    pb.DELIVERY_STRATEGY_AFTER_TURN: Strategy.AFTER_TURN,
    pb.DELIVERY_STRATEGY_INTERRUPT: Strategy.INTERRUPT,
    pb.DELIVERY_STRATEGY_REPLACE_TURN: Strategy.REPLACE_TURN,
    pb.DELIVERY_STRATEGY_REJECT_IF_RUNNING: Strategy.REJECT_IF_RUNNING,
}
_UNTIL = {
    stream_pb2.SUBSCRIBE_UNTIL_UNSPECIFIED: Until.FOREVER,
    stream_pb2.SUBSCRIBE_UNTIL_FOREVER: Until.FOREVER,
    stream_pb2.SUBSCRIBE_UNTIL_HEAD: Until.HEAD,
    stream_pb2.SUBSCRIBE_UNTIL_RUN_END: Until.RUN_END,
}


class ConversationServicer(pb_grpc.ConversationStoreServiceServicer):
    """Conversations and their logs, for the caller's tenant."""

    def __init__(
        self,
        storage: Storage,
        subscriptions: Subscriptions,
        feeds: TenantFeeds,
        payloads: Payloads,
        blobs: Blobs,
        limits: TransferLimits,
    ) -> None:
        self._storage = storage
        self._pages = EventPages(storage)
        self._subscriptions = subscriptions
        self._feeds = feeds
        self._payloads = payloads
        self._blobs = blobs
        self._limits = limits
        self._imports = Slots(IMPORTS_AT_ONCE, "imports")

    @answers_rejections
    async def StartConversation(
        self, request: pb.StartConversationRequest, _: ServicerContext
    ) -> pb.StartConversationResponse:
        principal = current_principal()
        owner = owner_of(request.owner)
        definition = request.definition.SerializeToString(deterministic=True)
        task = await self._payloads.user_message(
            principal.tenant,
            UserMessage(new_id("msg"), "user", request.task, principal.subject),
            request.parts,
        )
        command = domain.StartConversation(
            tenant=principal.tenant,
            conversation_id=new_id("conv"),
            run_id=new_id("run"),
            message_id=task.message_id,
            facts=ConversationFacts(
                task=task.content,
                agents=tuple(request.agents),
                workflow=request.workflow,
                labels=dict(request.labels),
            ),
            definition=(hashlib.sha256(definition).hexdigest(), definition),
            max_rounds=request.max_rounds,
            principal=principal.subject,
            budget=values.budget(request.budget) if request.HasField("budget") else Budget(),
            timeout=_positive(request),
            priority=request.priority,
            human_input=request.human_input,
            traceparent=current_traceparent(),
            task=task,
            owner=owner,
            visibility=await visibility_of(self._storage, request.visibility),
            keeper="" if owner == principal.subject or caller().sees_all else principal.subject,
        )
        return await carry_out(
            self._storage,
            command,
            principal.tenant,
            request,
            pb.StartConversationResponse,
            lambda view: pb.StartConversationResponse(conversation=conversation_message(view)),
        )

    @answers_rejections
    async def GetConversation(
        self, request: pb.GetConversationRequest, _: ServicerContext
    ) -> pb.GetConversationResponse:
        tenant = current_principal().tenant
        await require_access(self._storage, request.conversation_id)
        view = await self._storage.conversation(tenant, request.conversation_id)
        response = pb.GetConversationResponse(conversation=conversation_message(view))
        if request.with_pinned_agents or request.with_definition:
            data = await self._storage.definition(tenant, view.run.definition_digest)
            if request.with_pinned_agents:
                response.pinned_agents.extend(pinned_agents(data))
            if request.with_definition:
                response.definition.MergeFromString(data)
        return response

    @answers_rejections
    async def ListConversations(
        self, request: pb.ListConversationsRequest, _: ServicerContext
    ) -> pb.ListConversationsResponse:
        return await conversations_page(self._storage, request)

    @answers_rejections
    async def ListEvents(
        self, request: pb.ListEventsRequest, _: ServicerContext
    ) -> pb.ListEventsResponse:
        tenant = current_principal().tenant
        await require_access(self._storage, request.conversation_id)
        return await self._pages.page(tenant, request, _filter(request.filter))

    @answers_rejections
    async def SendMessage(
        self, request: pb.SendMessageRequest, _: ServicerContext
    ) -> pb.SendMessageResponse:
        principal = current_principal()
        said = UserMessage(
            new_id("msg"), request.agent or "user", request.content, principal.subject
        )
        command = domain.SendMessage(
            tenant=principal.tenant,
            conversation_id=request.conversation_id,
            message=await self._payloads.user_message(principal.tenant, said, request.parts),
            strategy=_STRATEGIES.get(request.strategy, Strategy.AFTER_TURN),
            new_run_id=new_id("run"),
            traceparent=current_traceparent(),
        )
        return await carry_out(
            self._storage,
            by_caller(command),
            principal.tenant,
            request,
            pb.SendMessageResponse,
            lambda sent: pb.SendMessageResponse(
                message_id=sent.message_id,
                sequence=sent.sequence,
                run_id=sent.run_id,
                status=_status(sent.status),
            ),
        )

    @answers_rejections
    async def CancelConversation(
        self, request: pb.CancelConversationRequest, _: ServicerContext
    ) -> pb.CancelConversationResponse:
        tenant = current_principal().tenant
        command = domain.CancelConversation(tenant, request.conversation_id, request.reason)
        return await carry_out(
            self._storage,
            by_caller(command),
            tenant,
            request,
            pb.CancelConversationResponse,
            lambda view: pb.CancelConversationResponse(conversation=conversation_message(view)),
        )

    @answers_rejections
    async def PauseConversation(
        self, request: pb.PauseConversationRequest, _: ServicerContext
    ) -> pb.PauseConversationResponse:
        tenant = current_principal().tenant
        return await carry_out(
            self._storage,
            by_caller(domain.PauseConversation(tenant, request.conversation_id)),
            tenant,
            request,
            pb.PauseConversationResponse,
            lambda view: pb.PauseConversationResponse(conversation=conversation_message(view)),
        )

    @answers_rejections
    async def ResumeConversation(
        self, request: pb.ResumeConversationRequest, _: ServicerContext
    ) -> pb.ResumeConversationResponse:
        tenant = current_principal().tenant
        command = domain.ResumeConversation(
            tenant, request.conversation_id, new_id("run"), current_traceparent()
        )
        return await carry_out(
            self._storage,
            by_caller(command),
            tenant,
            request,
            pb.ResumeConversationResponse,
            lambda view: pb.ResumeConversationResponse(conversation=conversation_message(view)),
        )

    @answers_rejections
    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, _: ServicerContext
    ) -> pb.UpdateConversationResponse:
        return await histories.update(self._storage, request)

    @answers_rejections
    async def ForkConversation(
        self, request: pb.ForkConversationRequest, _: ServicerContext
    ) -> pb.ForkConversationResponse:
        return await histories.fork(self._storage, request)

    @answers_rejections
    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, _: ServicerContext
    ) -> pb.DeleteConversationResponse:
        return await histories.delete(self._storage, request)

    @answers_rejections
    async def ShareConversation(
        self, request: pb.ShareConversationRequest, _: ServicerContext
    ) -> pb.ShareConversationResponse:
        return await sharing.share(self._storage, request)

    @answers_rejections
    async def UnshareConversation(
        self, request: pb.UnshareConversationRequest, _: ServicerContext
    ) -> pb.UnshareConversationResponse:
        return await sharing.unshare(self._storage, request)

    @answers_rejections
    async def ListGrants(
        self, request: pb.ListGrantsRequest, _: ServicerContext
    ) -> pb.ListGrantsResponse:
        return await sharing.page(self._storage, request)

    @answers_rejections
    async def CheckAccess(
        self, request: pb.CheckAccessRequest, _: ServicerContext
    ) -> pb.CheckAccessResponse:
        return await sharing.check(self._storage, request)

    @streams_rejections
    async def ExportConversation(
        self, request: pb.ExportConversationRequest, _: ServicerContext
    ) -> AsyncIterator[pb.ExportConversationResponse]:
        tenant = current_principal().tenant
        await require_access(self._storage, request.conversation_id)
        async for chunk in exported(
            self._storage, self._blobs, self._limits, tenant, request.conversation_id
        ):
            yield pb.ExportConversationResponse(chunk=chunk)

    @answers_rejections
    async def ImportConversation(
        self, requests: AsyncIterator[pb.ImportConversationRequest], _: ServicerContext
    ) -> pb.ImportConversationResponse:
        principal = current_principal()
        visibility = await visibility_of(self._storage)
        with self._imports.taken():
            made = await imported(
                self._storage,
                self._blobs,
                self._limits,
                principal.tenant,
                ImportBody(requests),
                lambda arrived: owned(arrived, principal.subject, visibility),
            )
        return import_response(made)

    @answers_rejections
    async def SubscribeConversation(  # type: ignore[override]  # writes them serialized
        self, request: pb.SubscribeConversationRequest, context: ServicerContext
    ) -> None:
        """Writes serialized responses, by the shortest way; see `register`."""
        await require_access(self._storage, request.conversation_id)
        await self._subscriptions.subscribe(
            current_principal().tenant,
            request.conversation_id,
            context.write,
            after_sequence=request.after_sequence,
            resume_token=request.resume_token,
            until=_UNTIL.get(request.until, Until.FOREVER),
            accepted=_filter(request.filter),
            deltas=not request.filter.without_deltas,
        )

    @streams_rejections
    async def SubscribeTenant(  # type: ignore[override]  # yields them serialized
        self, request: pb.SubscribeTenantRequest, context: ServicerContext
    ) -> AsyncIterator[bytes]:
        """Yields serialized responses; see `register`."""
        tenant, accepted = current_principal().tenant, _filter(request.filter)
        responses = self._feeds.subscribe(
            tenant,
            request.resume_token,
            accepted,
            single_events=request.single_events,
            caller=caller(),
        )
        async for response in responses:
            yield response


def _positive(request: pb.StartConversationRequest) -> int | None:
    if not request.HasField("timeout"):
        return None
    timeout = values.micros(request.timeout)
    if timeout <= 0:
        raise MeshError.invalid("timeout", "must be longer than nothing")
    return timeout


def _filter(message: pb.EventFilter) -> EventFilter:
    kinds = {field.name for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["kind"].fields}
    unknown = sorted(set(message.kinds) - kinds)
    if unknown:
        raise MeshError.invalid(
            "filter.kinds", f"{', '.join(unknown)}: no such kind; there are {', '.join(kinds)}"
        )
    return EventFilter(
        frozenset(message.kinds), frozenset(message.run_ids), frozenset(message.agents)
    )


def _status(status: ConversationStatus) -> conversation_pb2.ConversationStatus.ValueType:
    return conversation_pb2.ConversationStatus.ValueType(status)
