"""Serves `documents.proto`."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain

import grpc
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import Int64Value
from numerator.accounts.v1 import accounts_pb2
from numerator.accounts.v1 import documents_pb2 as pb
from numerator.accounts.v1 import documents_pb2_grpc as pb_grpc

from services.accounts import store
from services.accounts.model import etag_of
from services.accounts.model.documents import MOST_BYTES, Document, DocumentKind
from services.accounts.rpc import after, convert, page
from services.accounts.store import documents as document_rows
from services.accounts.usecases import documents
from services.accounts.usecases.secrets import Vault
from services.chassis.database import Database
from services.chassis.errors import invalid
from services.chassis.paging import page_size
from services.chassis.rpc.call import current_call


class DocumentServicer(pb_grpc.DocumentServiceServicer):
    """Serves `numerator.accounts.v1.DocumentService`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def UploadVerificationDocument(
        self,
        request_iterator: Iterator[pb.UploadVerificationDocumentRequest],
        context: grpc.ServicerContext,
    ) -> pb.VerificationDocument:
        first = next(request_iterator, None)
        if first is None:
            raise invalid("parent", "is required", reason="REQUIRED")
        # The whole of it before the transaction, which must not wait for a slow caller.
        content = _whole(part.content.data for part in chain([first], request_iterator))
        call = current_call()
        asked = pb.UploadVerificationDocumentRequest(
            parent=first.parent,
            kind=first.kind,
            title=first.title,
            request_id=first.request_id,
            content=HttpBody(data=hashlib.sha256(content).digest()),
        )
        with self._database.transaction(call.scope) as tx:
            return tx.once(
                asked,
                lambda: _document(
                    documents.upload(
                        tx,
                        self._vault,
                        first.parent,
                        content,
                        kind=DocumentKind(pb.VerificationDocument.Kind.Name(first.kind)),
                        title=first.title,
                        uploader=call.principal.subject,
                    )
                ),
            )

    def GetVerificationDocument(
        self, request: pb.GetVerificationDocumentRequest, context: grpc.ServicerContext
    ) -> pb.VerificationDocument:
        with self._database.transaction(current_call().scope) as tx:
            return _document(document_rows.get_document(tx, request.name))

    def ListVerificationDocuments(
        self, request: pb.ListVerificationDocumentsRequest, context: grpc.ServicerContext
    ) -> pb.ListVerificationDocumentsResponse:
        size = page_size(request.page_size)
        with self._database.transaction(current_call().scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = document_rows.list_documents(tx, request.parent, after=after(request), limit=size + 1)
        items, token = page(found, size, request)
        return pb.ListVerificationDocumentsResponse(
            verification_documents=map(_document, items), next_page_token=token
        )

    def DownloadVerificationDocument(
        self, request: pb.DownloadVerificationDocumentRequest, context: grpc.ServicerContext
    ) -> Iterator[HttpBody]:
        call = current_call()
        # Audited, and no transaction open any more, before the first byte goes out.
        with self._database.transaction(call.scope) as tx:
            document, content = documents.read(
                tx, self._vault, request.name, actor=call.principal.subject, purpose=request.purpose
            )
        length = Any()
        length.Pack(Int64Value(value=len(content)))
        for start in range(0, len(content), documents.PIECE_BYTES):
            yield HttpBody(
                content_type=document.media_type,
                data=content[start : start + documents.PIECE_BYTES],
                extensions=[] if start else [length],
            )

    def DeleteVerificationDocument(
        self, request: pb.DeleteVerificationDocumentRequest, context: grpc.ServicerContext
    ) -> pb.VerificationDocument:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return _document(
                documents.erase(tx, request.name, etag=request.etag, actor=call.principal.subject)
            )


def _whole(parts: Iterable[bytes]) -> bytes:
    content = bytearray()
    for part in parts:
        content += part
        if len(content) > MOST_BYTES:
            raise invalid("content", f"must have at most {MOST_BYTES} bytes", reason="DOCUMENT_TOO_LARGE")
    return bytes(content)


def _document(model: Document) -> pb.VerificationDocument:
    return pb.VerificationDocument(
        name=model.name,
        kind=pb.VerificationDocument.Kind.Value(model.kind),
        title=model.title,
        media_type=model.media_type,
        size_bytes=model.size_bytes,
        sha256=model.sha256.hex(),
        uploader=model.uploader,
        create_time=convert.time(model.create_time),
        expire_time=convert.time(model.expire_time) if model.expire_time else None,
        erase_time=convert.time(model.erase_time) if model.erase_time else None,
        decision=accounts_pb2.Enterprise.Verification.Value(model.decision or "VERIFICATION_UNSPECIFIED"),
        decide_time=convert.time(model.decide_time) if model.decide_time else None,
        etag=etag_of(model.revision),
    )
