"""ConversationService: start conversations, read them, watch them, take part, stop them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from meshkit.context import current_principal
from meshkit.errors import MeshError

from agentmesh_gateway.definitions.catalog import Catalog
from agentmesh_gateway.definitions.pinning import Pinned, pin
from agentmesh_gateway.health import Probe, examine
from agentmesh_gateway.idempotency.recalling import Recalls
from agentmesh_gateway.inspection import debug_detail, runs_of
from agentmesh_gateway.relay import forward, hand_on
from agentmesh_gateway.servicers import attachments, patches
from agentmesh_gateway.servicers.chats import Chats
from agentmesh_gateway.servicers.context import Context, recast, set_http_status
from agentmesh_gateway.settings import GatewaySettings
from agentmesh_gateway.subscriptions.registry import Subscriptions
from agentmesh_gateway.subscriptions.tenant import TenantSubscriptions
from agentmesh_gateway.traces import TraceCollector
from agentmesh_gateway.transcript import newest_messages
from agentmesh_gateway.upstream import RUNTIME, STORE, TOOL_RUNNER, Upstream

_DEFAULT_MESSAGES = 200


class ConversationServicer:
    """What the store keeps, for the public."""

    def __init__(
        self,
        upstream: Upstream,
        catalog: Catalog,
        recalls: Recalls,
        subscriptions: Subscriptions,
        tenants: TenantSubscriptions,
        chats: Chats,
        traces: TraceCollector,
        probes: dict[str, Probe],
        settings: GatewaySettings,
    ) -> None:
        self._store = upstream.conversations
        self._catalog = catalog
        self._recalls = recalls
        self._subscriptions = subscriptions
        self._tenants = tenants
        self._chats = chats
        self._traces = traces
        self._probes = probes
        self._settings = settings
        # The rest of a response leaves room for its other fields.
        self._most_message_bytes = settings.max_message_bytes * 3 // 4

    async def start_conversation(
        self, request: pb2.StartConversationRequest, context: Context
    ) -> pb2.StartConversationResponse:
        """Pins what was named and hands it to the store. No runtime is needed for it."""
        started = await self._recalls.or_answered(
            request, store_pb2.StartConversationResponse, lambda: self._start(request)
        )
        conversation = started.conversation
        return pb2.StartConversationResponse(
            conversation_id=conversation.conversation_id,
            status=conversation.status,
            agents=conversation.agents,
            task=conversation.task,
            started_at=conversation.started_at,
            workflow=conversation.workflow,
            run_id=conversation.run.run_id,
            max_rounds=conversation.run.max_rounds,
            owner=conversation.owner,
            visibility=conversation.visibility,
        )

    async def get_conversation(
        self, request: pb2.GetConversationRequest, context: Context
    ) -> pb2.GetConversationResponse:
        """A conversation and its newest messages."""
        found = (
            await self._store.GetConversation(
                store_pb2.GetConversationRequest(conversation_id=request.conversation_id)
            )
        ).conversation
        response = pb2.GetConversationResponse(
            conversation_id=found.conversation_id,
            status=found.status,
            summary=found.summary,
            agents=found.agents,
            task=found.task,
            workflow=found.workflow,
            usage=found.usage,
            head_sequence=found.head_sequence,
            labels=found.labels,
            etag=found.etag,
            owner=found.owner,
            visibility=found.visibility,
        )
        response.started_at.CopyFrom(found.started_at)
        if found.HasField("completed_at"):
            response.completed_at.CopyFrom(found.completed_at)
        if found.HasField("run"):
            response.run.CopyFrom(found.run)
        if not request.without_messages:
            limit = request.message_limit or _DEFAULT_MESSAGES
            newest = await newest_messages(
                self._store, found, limit, request.before_sequence, self._most_message_bytes
            )
            response.messages.extend(newest.messages)
            response.messages_before_sequence = newest.older_before
        return response

    async def list_conversations(
        self, request: pb2.ListConversationsRequest, context: Context
    ) -> pb2.ListConversationsResponse:
        """A page of conversations without their messages."""
        page = await self._store.ListConversations(
            recast(request, store_pb2.ListConversationsRequest)
        )
        return recast(page, pb2.ListConversationsResponse)

    async def send_message(
        self, request: pb2.SendMessageRequest, context: Context
    ) -> pb2.SendMessageResponse:
        """Adds a message; the store starts a run if none is under way."""
        if not request.content.strip():
            raise MeshError.invalid("content", "must not be blank")
        attachments.check(request.parts)
        wanted = store_pb2.SendMessageRequest(
            request_id=request.request_id,
            conversation_id=request.conversation_id,
            content=request.content,
            agent=request.agent,
            strategy=request.strategy,
            parts=request.parts,
        )
        sent = await self._recalls.or_answered(
            request, store_pb2.SendMessageResponse, lambda: self._store.SendMessage(wanted)
        )
        return pb2.SendMessageResponse(
            message_id=sent.message_id,
            sequence=sent.sequence,
            run_id=sent.run_id,
            conversation_id=request.conversation_id,
            status=sent.status,
        )

    async def subscribe_conversation(
        self, request: pb2.SubscribeConversationRequest, context: Context
    ) -> None:
        """Writes the store's stream, as the bytes that came, shared with others who watch."""
        await self._subscriptions.serve(
            current_principal().tenant,
            recast(request, store_pb2.SubscribeConversationRequest),
            tuple(context.invocation_metadata() or ()),
            context.write,
        )

    async def subscribe_tenant(self, request: pb2.SubscribeTenantRequest, context: Context) -> None:
        """Writes the store's stream, as the bytes that came."""
        await self._tenants.serve(
            recast(request, store_pb2.SubscribeTenantRequest),
            tuple(context.invocation_metadata() or ()),
            context.write,
        )

    async def converse(
        self, requests: AsyncIterator[pb2.ConverseRequest], context: Context
    ) -> None:
        """A subscription, and calls of other methods, on one stream."""
        await self._chats.serve(requests, context)

    async def list_events(
        self, request: pb2.ListEventsRequest, context: Context
    ) -> pb2.ListEventsResponse:
        """A page of events."""
        page = await self._store.ListEvents(recast(request, store_pb2.ListEventsRequest))
        return recast(page, pb2.ListEventsResponse)

    async def cancel_conversation(
        self, request: pb2.CancelConversationRequest, context: Context
    ) -> pb2.CancelConversationResponse:
        """Ends the run under way."""
        answer = await self._store.CancelConversation(
            store_pb2.CancelConversationRequest(
                request_id=request.request_id,
                conversation_id=request.conversation_id,
                reason=request.reason,
            )
        )
        return pb2.CancelConversationResponse(
            conversation_id=request.conversation_id, status=answer.conversation.status
        )

    async def pause_conversation(
        self, request: pb2.PauseConversationRequest, context: Context
    ) -> pb2.PauseConversationResponse:
        """Stops after the turn under way."""
        answer = await self._store.PauseConversation(
            store_pb2.PauseConversationRequest(
                request_id=request.request_id, conversation_id=request.conversation_id
            )
        )
        return pb2.PauseConversationResponse(
            conversation_id=request.conversation_id, status=answer.conversation.status
        )

    async def resume_conversation(
        self, request: pb2.ResumeConversationRequest, context: Context
    ) -> pb2.ResumeConversationResponse:
        """Goes on from the last good turn."""
        answer = await self._store.ResumeConversation(
            store_pb2.ResumeConversationRequest(
                request_id=request.request_id, conversation_id=request.conversation_id
            )
        )
        return pb2.ResumeConversationResponse(
            conversation_id=request.conversation_id, status=answer.conversation.status
        )

    async def update_conversation(
        self, request: pb2.UpdateConversationRequest, context: Context
    ) -> pb2.UpdateConversationResponse:
        """Changes the fields that the mask names."""
        answer = await self._store.UpdateConversation(patches.to_store(request))
        return recast(answer, pb2.UpdateConversationResponse)

    async def fork_conversation(
        self, request: pb2.ForkConversationRequest, context: Context
    ) -> pb2.ForkConversationResponse:
        """A new conversation with the same history, up to an event."""
        wanted = store_pb2.ForkConversationRequest(
            request_id=request.request_id,
            conversation_id=request.conversation_id,
            at_sequence=request.at_sequence,
        )
        answer = await self._recalls.or_answered(
            request,
            store_pb2.ForkConversationResponse,
            lambda: self._store.ForkConversation(wanted),
        )
        return recast(answer, pb2.ForkConversationResponse)

    async def delete_conversation(
        self, request: pb2.DeleteConversationRequest, context: Context
    ) -> pb2.DeleteConversationResponse:
        """Removes it for everybody, at once."""
        await self._store.DeleteConversation(
            store_pb2.DeleteConversationRequest(
                request_id=request.request_id, conversation_id=request.conversation_id
            )
        )
        return pb2.DeleteConversationResponse()

    async def share_conversation(
        self, request: pb2.ShareConversationRequest, context: Context
    ) -> pb2.ShareConversationResponse:
        """Lets somebody read it or take part."""
        wanted = recast(request, store_pb2.ShareConversationRequest)
        answer = await self._recalls.or_answered(
            request,
            store_pb2.ShareConversationResponse,
            lambda: self._store.ShareConversation(wanted),
        )
        return recast(answer, pb2.ShareConversationResponse)

    async def unshare_conversation(
        self, request: pb2.UnshareConversationRequest, context: Context
    ) -> pb2.UnshareConversationResponse:
        """Takes that back."""
        await self._store.UnshareConversation(recast(request, store_pb2.UnshareConversationRequest))
        return pb2.UnshareConversationResponse()

    async def list_grants(
        self, request: pb2.ListGrantsRequest, context: Context
    ) -> pb2.ListGrantsResponse:
        """With whom it is shared."""
        page = await self._store.ListGrants(recast(request, store_pb2.ListGrantsRequest))
        return recast(page, pb2.ListGrantsResponse)

    async def export_conversation(
        self, request: pb2.ExportConversationRequest, context: Context
    ) -> AsyncIterator[pb2.ExportConversationResponse]:
        """The store's lines as they come."""
        wanted = store_pb2.ExportConversationRequest(conversation_id=request.conversation_id)
        call = self._store.ExportConversation(wanted, timeout=context.time_remaining())
        async with aclosing(forward(call)) as responses:
            async for response in responses:
                yield pb2.ExportConversationResponse(chunk=response.chunk)

    async def import_conversation(
        self, requests: AsyncIterator[pb2.ImportConversationRequest], context: Context
    ) -> pb2.ImportConversationResponse:
        """Hands the pieces on as they come."""
        pieces = (
            store_pb2.ImportConversationRequest(chunk=r.chunk, request_id=r.request_id)
            async for r in requests
        )
        conversation = (await hand_on(pieces, self._store.ImportConversation)).conversation
        return pb2.ImportConversationResponse(
            conversation_id=conversation.conversation_id,
            status=conversation.status,
            head_sequence=conversation.head_sequence,
        )

    async def debug_conversation(
        self, request: pb2.DebugConversationRequest, context: Context
    ) -> pb2.DebugConversationResponse:
        """Runs and sizes, read from the log; no contents."""
        wanted = store_pb2.GetConversationRequest(
            conversation_id=request.conversation_id, with_pinned_agents=True
        )
        found = await self._store.GetConversation(wanted)
        conversation = found.conversation
        runs = await runs_of(self._store, conversation)
        detail = debug_detail(conversation)
        conversation.task = conversation.summary = ""
        return pb2.DebugConversationResponse(
            conversation=conversation,
            runs=runs,
            detail=detail,
            pinned_agents=found.pinned_agents,
        )

    async def get_trace(
        self, request: pb2.GetTraceRequest, context: Context
    ) -> pb2.GetTraceResponse:
        """The newest run's spans from every service that can be asked."""
        wanted = store_pb2.GetConversationRequest(conversation_id=request.conversation_id)
        conversation = (await self._store.GetConversation(wanted)).conversation
        trace = await self._traces.collect(conversation.run.traceparent)
        return pb2.GetTraceResponse(
            trace_id=trace.trace_id, spans=trace.spans, unreachable=trace.unreachable
        )

    async def check_conversations_health(
        self, request: pb2.CheckConversationsHealthRequest, context: Context
    ) -> pb2.CheckConversationsHealthResponse:
        """With the store conversations start; with the others they are carried out."""
        report = await examine(self._probes, vital=[STORE], helpful=[RUNTIME, TOOL_RUNNER])
        if report.status == "unhealthy":
            set_http_status(context, 503)
        return pb2.CheckConversationsHealthResponse(status=report.status, services=report.services)

    async def _start(
        self, request: pb2.StartConversationRequest
    ) -> store_pb2.StartConversationResponse:
        self._check(request)
        pinned = await pin(self._catalog, request.agents, request.workflow)
        return await self._store.StartConversation(self._to_store(request, pinned))

    def _check(self, request: pb2.StartConversationRequest) -> None:
        if not request.task.strip():
            raise MeshError.invalid("task", "must not be blank: say what is to be done")
        if request.human_input and not self._settings.human_in_loop:
            raise MeshError.invalid(
                "human_input", "agents may not ask people here: ENABLE_HUMAN_IN_LOOP is false"
            )
        attachments.check(request.parts)

    def _to_store(
        self, request: pb2.StartConversationRequest, pinned: Pinned
    ) -> store_pb2.StartConversationRequest:
        wanted = store_pb2.StartConversationRequest(
            request_id=request.request_id,
            task=request.task,
            definition=pinned.definition,
            workflow=request.workflow,
            agents=pinned.agents,
            max_rounds=request.max_rounds
            or pinned.definition.max_rounds
            or self._settings.max_rounds,
            priority=request.priority,
            labels=request.labels,
            human_input=request.human_input,
            parts=request.parts,
            owner=request.owner,
            visibility=request.visibility,
        )
        if request.HasField("budget"):
            wanted.budget.CopyFrom(request.budget)
        if request.HasField("timeout"):
            wanted.timeout.CopyFrom(request.timeout)
        return wanted
