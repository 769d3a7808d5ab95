"""Documents of a verification, by gRPC: taken in sealed, read for a purpose, erased in time."""

import hashlib
import os
import struct
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.wrappers_pb2 import Int64Value
from numerator.accounts.v1 import accounts_pb2
from numerator.accounts.v1 import documents_pb2 as pb
from numerator.accounts.v1.documents_pb2_grpc import DocumentServiceStub

from services.accounts.model.documents import MOST_BYTES
from services.accounts.tests.test_sessions import refused
from services.accounts.tests.test_shredding import shred
from services.accounts.tests.workers import make_worker
from services.accounts.tests.world import Company, World, field_reasons_of, reason_of
from services.accounts.usecases.documents import PIECE_BYTES, erase_expired
from services.accounts.usecases.rotation import rotate_data_keys
from services.accounts.usecases.secrets import Vault
from services.chassis.database import PLATFORM
from services.chassis.principal import Principal
from services.chassis.testing.rpc import member, operator

D = pb.VerificationDocument
V = accounts_pb2.Enterprise
# A PNG that says it has 2 147 483 647 x 2 147 483 647 pixels: whoever decodes it needs 16 EiB.
BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    + b"\0\0\0\0"
)


def pdf(size: int = 1000) -> bytes:
    """A PDF as far as anybody looks, with a canary in it, like no other."""
    return b"%PDF-1.7\ncanary-licence " + os.urandom(size)


def documents(world: World, principal: Principal) -> DocumentServiceStub:
    return DocumentServiceStub(world.running.as_(principal))


def parts(
    company: str, content: bytes, *, piece: int = 256 * 1024, **fields: Any
) -> Iterator[pb.UploadVerificationDocumentRequest]:
    """An upload as the gateway sends it."""
    wanted: dict[str, Any] = {"kind": D.BUSINESS_LICENCE} | fields
    yield pb.UploadVerificationDocumentRequest(
        parent=company, content=HttpBody(content_type="text/html", data=content[:piece]), **wanted
    )
    for start in range(piece, len(content), piece):
        yield pb.UploadVerificationDocumentRequest(content=HttpBody(data=content[start : start + piece]))


def upload(world: World, company: Company, content: bytes, **fields: Any) -> pb.VerificationDocument:
    """A document that its owner has uploaded."""
    stub = documents(world, company.owner)
    return stub.UploadVerificationDocument(parts(company.name, content, **fields))


def refused_upload(world: World, company: Company, content: bytes, **fields: Any) -> str:
    """Why an upload is refused: the reason of the field, where a field is wrong."""
    with pytest.raises(grpc.RpcError) as error:
        upload(world, company, content, **fields)
    reason = reason_of(error.value)
    return field_reasons_of(error.value).get("content", reason) if reason == "INVALID_ARGUMENT" else reason


def download(
    world: World, document: str, principal: Principal | None = None, purpose: str = "verification"
) -> list[HttpBody]:
    """The pieces of a document, as an operator reads it."""
    stub = documents(world, principal or operator())
    return list(
        stub.DownloadVerificationDocument(
            pb.DownloadVerificationDocumentRequest(name=document, purpose=purpose)
        )
    )


def refused_download(world: World, document: str, principal: Principal | None = None, **fields: Any) -> str:
    """Why nobody reads it."""
    with pytest.raises(grpc.RpcError) as error:
        download(world, document, principal, **fields)
    return reason_of(error.value)


def get(world: World, document: str) -> pb.VerificationDocument:
    """What operators know of a document."""
    return documents(world, operator()).GetVerificationDocument(
        pb.GetVerificationDocumentRequest(name=document)
    )


def purge(world: World) -> int:
    """What the worker does every ten minutes."""
    with world.database.transaction(PLATFORM) as tx:
        return erase_expired(tx)


def request(world: World, company: Company) -> None:
    """The enterprise asks to be verified."""
    world.as_(company.owner).RequestVerification(accounts_pb2.RequestVerificationRequest(name=company.name))


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (pdf(3 * PIECE_BYTES), "application/pdf"),
        (pdf(2 * PIECE_BYTES - len(pdf(0))), "application/pdf"),
        (b"\xff\xd8\xff\xe0" + os.urandom(100), "image/jpeg"),
        (b"%PDF-1.7" + bytes(MOST_BYTES - 8), "application/pdf"),
        (BOMB, "image/png"),
    ],
    ids=["pieces", "whole pieces", "jpeg", "largest", "bomb"],
)
def test_upload__comes_back_byte_for_byte(world: World, content: bytes, media_type: str) -> None:
    """In pieces, with the length ahead and the type that its bytes have; what the header said does not count, and nothing decodes it."""
    company = world.register()
    kept = upload(world, company, content, title="Licence 2026")
    assert (kept.kind, kept.title, kept.media_type) == (D.BUSINESS_LICENCE, "Licence 2026", media_type)
    assert (kept.size_bytes, kept.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert kept.uploader == company.owner.subject

    read = download(world, kept.name)

    assert b"".join(piece.data for piece in read) == content
    assert {piece.content_type for piece in read} == {media_type}
    length = Int64Value()
    assert read[0].extensions[0].Unpack(length)
    assert length.value == len(content)


def test_upload__is_kept_sealed(world: World) -> None:
    """No table holds any of its bytes as they were; a piece opens in its place only."""
    company = world.register()
    kept = upload(world, company, pdf(2 * PIECE_BYTES))
    pieces = world.rows("document_pieces")
    assert len(pieces) == 3
    for table in ("document_pieces", "verification_documents", "idempotency", "audit", "outbox"):
        assert not any(
            b"canary-licence" in (bytes(value) if isinstance(value, bytes) else str(value).encode())
            for row in world.rows(table)
            for value in row.values()
        ), table
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("update document_pieces set number = number + 10 where number < 2")
        tx.execute("update document_pieces set number = 11 - number where number >= 10")
    assert refused_download(world, kept.name) == "INTERNAL"


def test_download__shows_a_cut_tail(world: World) -> None:
    """A document whose last piece is gone is not given as if it were whole."""
    company = world.register()
    kept = upload(world, company, pdf(2 * PIECE_BYTES))
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("delete from document_pieces where number = 2")
    assert refused_download(world, kept.name) == "INTERNAL"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "DOCUMENT_TYPE"),
        (b"<html><script>", "DOCUMENT_TYPE"),
        (b"GIF89a", "DOCUMENT_TYPE"),
        (b" %PDF-1.7", "DOCUMENT_TYPE"),
        (b"MZ\x90\x00%PDF-1.7", "DOCUMENT_TYPE"),
        (b"%PDF-" + bytes(MOST_BYTES - 4), "DOCUMENT_TOO_LARGE"),
    ],
    ids=["empty", "html", "gif", "not at the start", "program", "too large"],
)
def test_upload__refuses_what_is_no_document(world: World, content: bytes, reason: str) -> None:
    """Nothing is kept of it."""
    company = world.register()
    assert refused_upload(world, company, content) == reason
    assert not world.rows("verification_documents")


def test_upload__again_changes_nothing(world: World) -> None:
    """The same bytes are the same document; the same request id with others is refused."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    content = pdf()
    kept = upload(world, company, content, request_id="r1")
    assert upload(world, company, content, request_id="r1") == kept
    assert upload(world, company, content, kind=D.OTHER, request_id="r2") == kept
    assert refused_upload(world, company, pdf(), request_id="r1") == "IDEMPOTENCY_KEY_REUSED"
    assert upload(world, other, content).name != kept.name
    assert len(world.rows("verification_documents")) == 2
    assert len(world.audited("document.uploaded")) == 2


def test_upload__ends_at_ten(world: World) -> None:
    """What was erased does not count, and may come again."""
    company = world.register()
    contents = [pdf() for _ in range(10)]
    kept = [upload(world, company, content) for content in contents]
    assert refused_upload(world, company, pdf()) == "DOCUMENTS_FULL"
    owner = documents(world, company.owner)
    erased = owner.DeleteVerificationDocument(pb.DeleteVerificationDocumentRequest(name=kept[0].name))
    assert erased.HasField("erase_time")
    assert upload(world, company, contents[0]).name != kept[0].name


def test_upload__is_for_those_who_wait_for_a_decision(world: World) -> None:
    """Nobody reads documents of who is verified already."""
    company = world.register()
    request(world, company)
    world.as_(operator()).VerifyEnterprise(accounts_pb2.VerifyEnterpriseRequest(name=company.name))
    assert refused_upload(world, company, pdf()) == "VERIFICATION_STATE"


def test_calls__are_for_the_enterprise_and_for_operators(world: World) -> None:
    """Only operators read the content, only those in charge upload and erase; to others nothing is there."""
    company = world.register()
    kept = upload(world, company, pdf())
    editor, stranger = member(company.name, ["EDITOR"]), member("enterprises/other")
    naming = pb.GetVerificationDocumentRequest(name=kept.name)
    listing = pb.ListVerificationDocumentsRequest(parent=company.name)
    deleting = pb.DeleteVerificationDocumentRequest(name=kept.name)
    for principal, told in ((editor, "ROLE_MISSING"), (stranger, "NOT_FOUND")):
        stub = documents(world, principal)
        assert refused(stub.GetVerificationDocument, naming) == told
        assert refused(stub.ListVerificationDocuments, listing) == told
        assert refused(stub.DeleteVerificationDocument, deleting) == told
        with pytest.raises(grpc.RpcError) as error:
            stub.UploadVerificationDocument(parts(company.name, pdf()))
        assert reason_of(error.value) == told
        assert refused_download(world, kept.name, principal) == "CALLER_NOT_ALLOWED"
    assert refused_download(world, kept.name, company.owner) == "CALLER_NOT_ALLOWED"
    assert refused(documents(world, operator()).DeleteVerificationDocument, deleting) == "CALLER_NOT_ALLOWED"
    for principal in (company.owner, operator()):
        assert documents(world, principal).GetVerificationDocument(naming) == kept
        assert list(
            documents(world, principal).ListVerificationDocuments(listing).verification_documents
        ) == [kept]
    assert refused_download(world, f"{company.name}/verificationDocuments/x") == "NOT_FOUND"


def test_list__pages(world: World) -> None:
    """Oldest first, and each once."""
    company = world.register()
    names = []
    for _ in range(5):
        names.append(upload(world, company, pdf()).name)
        world.clock.advance(timedelta(seconds=1))
    stub, seen, token = documents(world, company.owner), list[str](), ""
    while True:
        page = stub.ListVerificationDocuments(
            pb.ListVerificationDocumentsRequest(parent=company.name, page_size=2, page_token=token)
        )
        seen += [each.name for each in page.verification_documents]
        if not (token := page.next_page_token):
            break
    assert seen == names


def test_download__is_audited_with_its_purpose(world: World) -> None:
    """Who read what for what; without a purpose nobody reads, and a refused reading is not one."""
    company = world.register()
    kept = upload(world, company, pdf())
    assert refused_download(world, kept.name, purpose="") == "INVALID_ARGUMENT"
    assert not world.audited("document.read")
    download(world, kept.name, purpose="appeal of 3 May")
    (entry,) = world.audited("document.read")
    assert (entry["enterprise"], entry["actor"], entry["subject"]) == (
        company.name,
        operator().subject,
        kept.name,
    )
    assert entry["detail"] == {"purpose": "appeal of 3 May"}


def test_decision__names_the_documents_that_it_rests_on(world: World) -> None:
    """They say so, and the audit trail does; the enterprise cannot erase them meanwhile, but the others."""
    company = world.register()
    licence, letter = upload(world, company, pdf()), upload(world, company, pdf(), kind=D.LETTER_OF_AUTHORITY)
    request(world, company)
    staff = world.as_(operator())
    staff.RejectEnterprise(
        accounts_pb2.RejectEnterpriseRequest(
            name=company.name, note="The licence has expired", documents=[licence.name]
        )
    )
    assert get(world, licence.name).decision == V.REJECTED
    assert get(world, licence.name).decide_time.ToDatetime() == world.clock.now().replace(tzinfo=None)
    assert get(world, letter.name).decision == V.VERIFICATION_UNSPECIFIED
    assert world.audited("verification.rejected")[0]["detail"]["documents"] == [licence.name]
    owner = documents(world, company.owner)
    naming = pb.DeleteVerificationDocumentRequest
    assert refused(owner.DeleteVerificationDocument, naming(name=licence.name)) == "DOCUMENT_IN_USE"
    owner.DeleteVerificationDocument(naming(name=letter.name))
    request(world, company)
    verify = accounts_pb2.VerifyEnterpriseRequest
    for names, reason in (
        ([licence.name, letter.name], "DOCUMENT_ERASED"),
        ([f"{company.name}/verificationDocuments/missing"], "NOT_FOUND"),
    ):
        assert refused(staff.VerifyEnterprise, verify(name=company.name, documents=names)) == reason
    assert get(world, licence.name).decision == V.REJECTED
    staff.VerifyEnterprise(verify(name=company.name, documents=[licence.name, licence.name]))
    assert world.audited("verification.verified")[0]["detail"]["documents"] == [licence.name]
    assert get(world, licence.name).decision == V.VERIFIED


def test_decision__rests_on_no_other_enterprises_documents(world: World) -> None:
    """They are not there."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    theirs = upload(world, other, pdf())
    request(world, company)
    naming = accounts_pb2.VerifyEnterpriseRequest(name=company.name, documents=[theirs.name])
    assert refused(world.as_(operator()).VerifyEnterprise, naming) == "NOT_FOUND"


def test_expiry__is_ninety_days_after_the_decision(world: World) -> None:
    """Not while one is awaited, however long that takes; and without a request ninety days after the upload."""
    company = world.register()
    kept = upload(world, company, pdf())
    uploaded = world.clock.now()
    assert kept.expire_time.ToDatetime(uploaded.tzinfo) == uploaded + timedelta(days=90)
    request(world, company)
    assert not get(world, kept.name).HasField("expire_time")
    assert not upload(world, company, pdf()).HasField("expire_time")
    world.clock.advance(timedelta(days=200))
    make_worker().purge(world.database)
    download(world, kept.name)
    world.as_(operator()).RejectEnterprise(
        accounts_pb2.RejectEnterpriseRequest(name=company.name, note="Unreadable")
    )
    decided = world.clock.now()
    assert get(world, kept.name).expire_time.ToDatetime(decided.tzinfo) == decided + timedelta(days=90)
    world.clock.advance(timedelta(days=89))
    make_worker().purge(world.database)
    request(world, company)
    assert not get(world, kept.name).HasField("expire_time")


def test_retention__erases_what_is_due(world: World) -> None:
    """The content goes, the row stays with hash and times; it is audited once, and what is not due stays."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    due, spared = upload(world, company, pdf()), upload(world, other, pdf())
    with world.database.transaction(PLATFORM) as tx:
        tx.execute(
            "update verification_documents set expire_time = %s where name = %s",
            (tx.now - timedelta(microseconds=1), due.name),
        )
    for _ in range(2):
        make_worker().purge(world.database)
    assert {row["document"] for row in world.rows("document_pieces")} == {spared.name}
    left = get(world, due.name)
    assert (left.sha256, left.size_bytes, left.create_time) == (due.sha256, due.size_bytes, due.create_time)
    assert left.HasField("erase_time")
    assert not left.HasField("expire_time")
    (entry,) = world.audited("document.erased")
    assert (entry["actor"], entry["subject"]) == ("retention", due.name)
    assert refused_download(world, due.name) == "DOCUMENT_ERASED"


def test_delete__needs_the_newest_etag(world: World) -> None:
    """A document that a request has claimed meanwhile is not erased by whoever has not seen that; twice is once."""
    company = world.register()
    kept = upload(world, company, pdf())
    request(world, company)
    owner = documents(world, company.owner)
    deleting = pb.DeleteVerificationDocumentRequest(name=kept.name, etag=kept.etag)
    assert refused(owner.DeleteVerificationDocument, deleting) == "ETAG_MISMATCH"
    newest = pb.DeleteVerificationDocumentRequest(name=kept.name, etag=get(world, kept.name).etag)
    erased = owner.DeleteVerificationDocument(newest)
    assert owner.DeleteVerificationDocument(newest) == erased
    assert len(world.audited("document.erased")) == 1


def test_keys__rotate_and_are_shredded(world: World) -> None:
    """Sealed anew by a new key it reads the same; without its key it is gone."""
    company = world.register()
    content = pdf(3 * PIECE_BYTES)
    kept = upload(world, company, content)
    rotated = rotate_data_keys(world.database, Vault(world.kms))
    assert (rotated.secrets, rotated.failures) == (4, [])
    assert {row["key_version"] for row in world.rows("document_pieces")} == {2}
    assert b"".join(piece.data for piece in download(world, kept.name)) == content
    shred(world, company)
    assert refused_download(world, kept.name) == "SECRETS_SHREDDED"
