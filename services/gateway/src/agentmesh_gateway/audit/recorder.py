"""Decides which calls are recorded, and by whom.

A change that the store makes is recorded by the store, in the transaction that makes it: what the
record needs travels with the call, see `meshkit.call_origin`. What is changed elsewhere, in
workspaces and sandboxes, is recorded before it begins, and again with its outcome. Calls that were
refused or failed, and reads if they are wanted, go to the store in batches; those of nobody known
are counted first.
"""

from __future__ import annotations

import grpc
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation_store.v1 import ledger_service_pb2 as pb
from meshkit import call_origin
from meshkit.call_origin import CallOrigin
from meshkit.caller_address import find_caller_address
from meshkit.context import Principal
from meshkit.errors import MeshError
from meshkit.ids import new_id
from meshkit.served_call import ServedCall
from meshkit.sites import site_of

from agentmesh_gateway.audit.access_log import AccessLog
from agentmesh_gateway.audit.resources import request_digest, request_id_of, resource_of
from agentmesh_gateway.audit.strangers import Strangers
from agentmesh_gateway.audit.trail import AuditTrail

_PACKAGE = "agentmesh.gateway.v1"
OUTSIDE_OF_THE_STORE = frozenset(
    f"{_PACKAGE}.{method}"
    for method in (
        "ToolService/ExecuteCode",
        "ArtifactService/UploadArtifact",
        "ArtifactService/DeleteArtifact",
        "ArtifactService/RestoreArtifactVersion",
        "BlobService/UploadBlob",
    )
)
"""Methods that change something without a transaction of the store."""

STARTED = "STARTED"
# Nothing was decided about these calls: they may come again. A record of each would let a flood of
# calls become a flood of records.
_DEFERRED = frozenset({"RATE_LIMITED", "REPLICA_OVERLOADED"})
_DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class CallRecorder:
    """Hears of every call of both edges."""

    def __init__(
        self,
        trail: AuditTrail,
        strangers: Strangers,
        access_log: AccessLog | None,
        *,
        reads: bool,
    ) -> None:
        self._trail = trail
        self._strangers = strangers
        self._access_log = access_log
        self._reads = reads

    async def admitted(self, call: ServedCall) -> None:
        """Names the origin of a change. Raises MeshError UNAVAILABLE where that cannot be kept."""
        if not call.rules.changes:
            return
        origin = CallOrigin(
            call_id=new_id("call"),
            method=call.rules.full_name,
            resource=resource_of(call.request),
            peer=call.peer,
            trace_id=call.trace_id,
            request_id=request_id_of(call.request),
            request_digest=request_digest(call.request),
        )
        call_origin.begin(origin)
        if call.rules.full_name in OUTSIDE_OF_THE_STORE:
            try:
                await self._trail.put(_record(call, STARTED))
            except (grpc.aio.AioRpcError, ConnectionError) as error:
                raise MeshError.unavailable(
                    "conversation_store", "the audit record of this call cannot be kept now"
                ) from error

    def ended(self, call: ServedCall) -> None:
        """Records what the store does not, and writes the line of the access log."""
        if call.rules.audience != options_pb2.AUDIENCE_PUBLIC:
            return
        if self._access_log is not None:
            self._access_log.note(call)
        if call.reason in _DEFERRED:
            return
        if call.rules.changes:
            wanted = (
                call.code is not grpc.StatusCode.OK or call.rules.full_name in OUTSIDE_OF_THE_STORE
            )
        else:
            wanted = self._reads or call.code in _DENIED
        if not wanted:
            return
        if call.principal is None:
            site = site_of(find_caller_address())
            refusal = (site, call.rules.full_name, call.reason)
            self._strangers.refused(refusal, call.code.name, lambda: _record(call, call.code.name))
        else:
            self._trail.add(_record(call, call.code.name))


def _record(call: ServedCall, code: str) -> pb.AuditRecord:
    who: Principal | None = call.principal
    record = pb.AuditRecord(
        record_id=new_id("call"),
        tenant=who.tenant if who else "",
        principal=who.subject if who else "",
        method=call.rules.full_name,
        resource=resource_of(call.request),
        code=code,
        peer=call.peer,
        trace_id=call.trace_id,
        request_id=request_id_of(call.request),
    )
    record.time.GetCurrentTime()
    return record
