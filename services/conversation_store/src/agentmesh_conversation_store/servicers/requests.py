"""RequestService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

from agentmesh.conversation_store.v1 import request_service_pb2 as pb
from agentmesh.conversation_store.v1 import request_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import current_principal

from agentmesh_conversation_store.codec import values
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.claims import Claim
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.requests import Request

from .rejections import answers_rejections
from .repeatable import record_of_body

FULL_NAME = "agentmesh.conversation_store.v1.RequestService"


class RequestServicer(pb_grpc.RequestServiceServicer):
    """Claims on requests that somebody else carries out."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @answers_rejections
    async def ClaimRequest(
        self, request: pb.ClaimRequestRequest, _: ServicerContext
    ) -> pb.ClaimRequestResponse:
        claim = _claim(request.request_id, request.request_digest, request.claim_id)
        held = Claim(claim.request, claim.claim_id, values.micros(request.hold))
        state, response = await self._storage.claim_request(held)
        return pb.ClaimRequestResponse(state=pb.RequestState.ValueType(state), response=response)

    @answers_rejections
    async def FinishRequest(
        self, request: pb.FinishRequestRequest, _: ServicerContext
    ) -> pb.FinishRequestResponse:
        claim = _claim(request.request_id, b"", request.claim_id)
        response = None if request.nothing_done else request.response
        if not await self._storage.finish_request(claim, response):
            raise Rejection(Reason.OUTCOME_UNKNOWN, "somebody else has the request by now")
        return pb.FinishRequestResponse()


def _claim(request_id: str, digest: bytes, claim_id: str) -> Claim:
    tenant = current_principal().tenant
    method = f"{FULL_NAME}/ClaimRequest"
    record: Request[None] = record_of_body(
        tenant, method, request_id, digest, lambda _: pb.ClaimRequestResponse()
    )
    return Claim(record, claim_id, 0)
