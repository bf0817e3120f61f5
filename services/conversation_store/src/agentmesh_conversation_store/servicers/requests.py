"""RequestService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

from agentmesh.conversation_store.v1 import request_service_pb2 as pb
from agentmesh.conversation_store.v1 import request_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import current_principal

from agentmesh_conversation_store.codec import values
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.claims import Claim, GivenUp
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.requests import Request

from .rejections import answers_rejections
from .repeatable import record_of_body

FULL_NAME = "agentmesh.conversation_store.v1.RequestService"


class RequestServicer(pb_grpc.RequestServiceServicer):
    """Claims on requests that somebody else carries out, and what requests were answered."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @answers_rejections
    async def ClaimRequest(
        self, request: pb.ClaimRequestRequest, _: ServicerContext
    ) -> pb.ClaimRequestResponse:
        record = _record(request.request_id, request.request_digest)
        claim = Claim(record, request.claim_id, values.micros(request.hold))
        found = await self._storage.claim_request(claim)
        return pb.ClaimRequestResponse(
            state=pb.RequestState.ValueType(found.state), response=found.response, note=found.note
        )

    @answers_rejections
    async def RenewRequest(
        self, request: pb.RenewRequestRequest, _: ServicerContext
    ) -> pb.RenewRequestResponse:
        record = _record(request.request_id)
        claim = Claim(record, request.claim_id, values.micros(request.hold))
        if not await self._storage.renew_request(claim, request.note):
            raise _lost(request.request_id)
        return pb.RenewRequestResponse()

    @answers_rejections
    async def FinishRequest(
        self, request: pb.FinishRequestRequest, _: ServicerContext
    ) -> pb.FinishRequestResponse:
        claim = Claim(_record(request.request_id), request.claim_id)
        if not await self._storage.finish_request(claim, _end(request)):
            raise _lost(request.request_id)
        return pb.FinishRequestResponse()

    @answers_rejections
    async def RecallRequest(
        self, request: pb.RecallRequestRequest, _: ServicerContext
    ) -> pb.RecallRequestResponse:
        record = _record(request.request_id, request.request_digest)
        return pb.RecallRequestResponse(response=await self._storage.recall(record))


def _end(request: pb.FinishRequestRequest) -> bytes | GivenUp:
    if request.nothing_done:
        return GivenUp.NOTHING_DONE
    return GivenUp.UNKNOWN if request.abandoned else request.response


def _record(request_id: str, digest: bytes = b"") -> Request[None]:
    """Kept under the public method that the call is part of."""
    return record_of_body(
        current_principal().tenant,
        f"{FULL_NAME}/ClaimRequest",
        request_id,
        digest,
        lambda _: pb.ClaimRequestResponse(),
    )


def _lost(request_id: str) -> Rejection:
    return Rejection(
        Reason.OUTCOME_UNKNOWN, "somebody else has the request by now", request_id=request_id
    )
