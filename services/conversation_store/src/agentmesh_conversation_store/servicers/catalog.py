"""CatalogService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentmesh.conversation_store.v1 import catalog_service_pb2 as pb
from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import current_principal
from meshkit.errors import FieldViolation, MeshError

from agentmesh_conversation_store.codec import tokens, values
from agentmesh_conversation_store.codec.digests import short_digest
from agentmesh_conversation_store.domain.rejections import not_found
from agentmesh_conversation_store.storage.catalog import (
    DocumentDeletion,
    DocumentQuery,
    DocumentWrite,
    NewDocument,
    StoredDocument,
)
from agentmesh_conversation_store.storage.interface import (
    Storage,
)
from agentmesh_conversation_store.storage.requests import Request

from .rejections import answers_rejections
from .repeatable import record_of_body, request_record

FULL_NAME = "agentmesh.conversation_store.v1.CatalogService"
SYSTEM_TENANT = ""
_DOCUMENTS_A_PAGE = 100
# A list of two kinds fits into one response, too.
_MAX_PAGE_BYTES = 1536 * 1024
_BEYOND_ALL_VERSIONS = 2**31
_PUT = f"{FULL_NAME}/PutDocument"

_DEFINITIONS: dict[int, str] = {
    pb.DOCUMENT_KIND_AGENT: "agent",
    pb.DOCUMENT_KIND_TEAM: "team",
    pb.DOCUMENT_KIND_WORKFLOW: "workflow",
    pb.DOCUMENT_KIND_TOOL: "tool",
    pb.DOCUMENT_KIND_MODEL_PROFILE: "model_profile",
}


class CatalogServicer(pb_grpc.CatalogServiceServicer):
    """Definitions: the tenant's own, and those of the system beneath them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @answers_rejections
    async def PublishDocuments(
        self, request: pb.PublishDocumentsRequest, _: ServicerContext
    ) -> pb.PublishDocumentsResponse:
        documents = _new_documents(request.documents, "documents[{}]")
        write = DocumentWrite(documents, only_changed=True)
        stored = await self._storage.put_documents(SYSTEM_TENANT, write)
        assert not isinstance(stored, bytes)  # noqa: S101 - no request id was given
        return pb.PublishDocumentsResponse(documents=[_document(one) for one in stored])

    @answers_rejections
    async def PutDocument(
        self, request: pb.PutDocumentRequest, _: ServicerContext
    ) -> pb.PutDocumentResponse:
        tenant = current_principal().tenant
        write = DocumentWrite(
            _new_documents([request.document], "document"),
            must_be_new=request.must_be_new,
            etag=request.etag,
        )
        record: Request[Sequence[StoredDocument]] | None = None
        if request.request_id:
            body = request.request_digest or request.SerializeToString(deterministic=True)
            record = record_of_body(tenant, _PUT, request.request_id, body, _put_response)
        stored = await self._storage.put_documents(tenant, write, record)
        if isinstance(stored, bytes):
            return pb.PutDocumentResponse.FromString(stored)
        return _put_response(stored)

    @answers_rejections
    async def GetDocument(
        self, request: pb.GetDocumentRequest, _: ServicerContext
    ) -> pb.GetDocumentResponse:
        stored = await self._storage.document(
            current_principal().tenant, request.kind, request.name, request.version
        )
        if stored is None:
            raise not_found(_DEFINITIONS[request.kind], request.name)
        return pb.GetDocumentResponse(document=_document(stored))

    @answers_rejections
    async def ListDocuments(
        self, request: pb.ListDocumentsRequest, _: ServicerContext
    ) -> pb.ListDocumentsResponse:
        size = request.page_size or _DOCUMENTS_A_PAGE
        after = ""
        if request.page_token:
            (after,) = tokens.page_position(request.page_token, "documents", str)
        system = request.system if request.HasField("system") else None
        query = DocumentQuery(request.kind, list(request.names), after, system)
        found = await self._storage.documents(current_principal().tenant, query, size + 1)
        page = _page(found, size)
        more = len(found) > len(page)
        return pb.ListDocumentsResponse(
            documents=[_document(stored) for stored in page],
            next_page_token=tokens.page_token("documents", page[-1].name) if more else "",
        )

    @answers_rejections
    async def ListDocumentVersions(
        self, request: pb.ListDocumentVersionsRequest, _: ServicerContext
    ) -> pb.ListDocumentVersionsResponse:
        size = request.page_size or _DOCUMENTS_A_PAGE
        before = _BEYOND_ALL_VERSIONS
        if request.page_token:
            (position,) = tokens.page_position(request.page_token, "versions", int)
            before = max(0, min(before, position))
        found = await self._storage.document_versions(
            current_principal().tenant, request.kind, request.name, before, size + 1
        )
        if not found and not request.page_token:
            raise not_found(_DEFINITIONS[request.kind], request.name)
        page = _page(found, size)
        more = len(found) > len(page)
        return pb.ListDocumentVersionsResponse(
            documents=[_document(stored) for stored in page],
            next_page_token=tokens.page_token("versions", page[-1].version) if more else "",
        )

    @answers_rejections
    async def DeleteDocument(
        self, request: pb.DeleteDocumentRequest, _: ServicerContext
    ) -> pb.DeleteDocumentResponse:
        tenant = current_principal().tenant
        what = _DEFINITIONS[request.kind]
        deletion = DocumentDeletion(request.kind, request.name, what, request.etag)
        record: Request[None] | None = None
        if request.request_id:
            method = f"{FULL_NAME}/DeleteDocument"
            record = request_record(tenant, method, request, lambda _: pb.DeleteDocumentResponse())
        await self._storage.delete_document(tenant, deletion, record)
        return pb.DeleteDocumentResponse()


def _new_documents(documents: Iterable[pb.Document], path: str) -> list[NewDocument]:
    found, violations, seen = [], [], set()
    for index, document in enumerate(documents):
        where = path.format(index)
        definition = _DEFINITIONS.get(document.kind)
        if definition is None:
            violations.append(FieldViolation(f"{where}.kind", "must be set"))
        elif str(document.WhichOneof("definition")) != definition:
            violations.append(FieldViolation(f"{where}.{definition}", "must be set"))
        elif not document.name:
            violations.append(FieldViolation(f"{where}.name", "must be set"))
        elif (document.kind, document.name) in seen:
            violations.append(FieldViolation(f"{where}.name", "comes twice"))
        else:
            seen.add((document.kind, document.name))
            found.append(_new_document(document, definition))
    if violations:
        raise MeshError.invalid_fields(violations)
    return found


def _new_document(document: pb.Document, definition: str) -> NewDocument:
    kept = pb.Document(kind=document.kind, name=document.name)
    getattr(kept, definition).CopyFrom(getattr(document, definition))
    getattr(kept, definition).ClearField("version")
    data = kept.SerializeToString(deterministic=True)
    return NewDocument(document.kind, document.name, data, short_digest(data))


def _page(found: Sequence[StoredDocument], size: int) -> Sequence[StoredDocument]:
    """As many as were asked for and fit into a response, at least one."""
    room = _MAX_PAGE_BYTES
    for count, stored in enumerate(found[:size]):
        room -= len(stored.data)
        if room < 0 and count:
            return found[:count]
    return found[:size]


def _document(stored: StoredDocument) -> pb.Document:
    document = pb.Document.FromString(stored.data)
    document.version = stored.version
    document.system = stored.tenant == SYSTEM_TENANT
    document.etag = stored.etag
    document.created_at.CopyFrom(values.timestamp(stored.created_at))
    definition = document.WhichOneof("definition")
    if definition is not None:
        getattr(document, definition).version = stored.version
    return document


def _put_response(stored: Sequence[StoredDocument]) -> pb.PutDocumentResponse:
    return pb.PutDocumentResponse(document=_document(stored[0]))
