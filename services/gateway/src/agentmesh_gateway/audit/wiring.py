"""Puts the recording of calls together."""

from __future__ import annotations

from collections.abc import Sequence

from agentmesh.conversation_store.v1 import ledger_service_pb2 as pb
from meshkit.context import SYSTEM, principal_scope
from meshkit.ids import new_id
from meshkit.server import ServiceHost

from agentmesh_gateway.audit.access_log import AccessLog
from agentmesh_gateway.audit.recorder import CallRecorder
from agentmesh_gateway.audit.strangers import Strangers
from agentmesh_gateway.audit.trail import AuditTrail
from agentmesh_gateway.settings import GatewaySettings
from agentmesh_gateway.upstream import Upstream

_APPEND_SECONDS = 10.0


def record_calls(host: ServiceHost, upstream: Upstream, settings: GatewaySettings) -> None:
    """From now on `host` has a listener that records its calls."""

    async def append(records: Sequence[pb.AuditRecord]) -> None:
        request = pb.AppendAuditRequest(batch_id=new_id("audit"), records=records)
        with principal_scope(SYSTEM):
            await upstream.ledger.AppendAudit(request, timeout=_APPEND_SECONDS)

    trail = AuditTrail(append, most=settings.audit_queue)
    access_log = AccessLog(settings.access_log_reads) if settings.access_log else None
    strangers = Strangers(trail.add)
    host.call_listener = CallRecorder(trail, strangers, access_log, reads=settings.audit_reads)
    host.on_start += [trail.start, strangers.start]
    host.on_stop += [trail.stop, strangers.stop]
