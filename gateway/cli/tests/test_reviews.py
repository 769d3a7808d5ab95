"""`numerator review …`."""

from datetime import UTC, datetime, timedelta

import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.any_pb2 import Any
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import Int64Value
from numerator.accounts.v1 import accounts_pb2, documents_pb2, enterprises_pb2

from services.chassis.errors import Kind, ServiceError

TIANSHAN = "enterprises/tianshan"
DOCUMENT = f"{TIANSHAN}/verificationDocuments/d1"
V = accounts_pb2.Enterprise


def time(ago: timedelta) -> Timestamp:
    """So long ago, with room for a slow machine."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) - ago - timedelta(seconds=5))
    return stamp


def enterprise(
    name: str = "tianshan", verification: int = V.PENDING, asked: timedelta = timedelta(hours=2)
) -> accounts_pb2.Enterprise:
    return accounts_pb2.Enterprise(
        name=f"enterprises/{name}",
        display_name=name.title(),
        industry="automotive",
        verification=verification,
        verification_note="Please look",
        create_time=time(timedelta(days=3)),
        update_time=time(asked),
        etag="r2",
        attributes={"sales_team": "west"},
    )


def test_list__has_who_waits_longest_first(numerator, platform):
    """Only who waits is asked for; in the order of asking, not of registration."""
    platform.accounts.answers["ListEnterprises"] = accounts_pb2.ListEnterprisesResponse(
        enterprises=[enterprise("young"), enterprise("old", asked=timedelta(days=2))]
    )

    lines = numerator("review", "list").stdout.splitlines()

    assert [line.split()[0] for line in lines] == ["enterprise", "old", "young"]
    assert lines[1].endswith("2d 0h ago  Please look")
    (request,) = platform.accounts.asked("ListEnterprises")
    assert request.verification == V.PENDING


def test_show__has_all_that_a_decision_rests_on(numerator, platform):
    """The enterprise, each document with what became of it, and notes."""
    kept = documents_pb2.VerificationDocument(
        name=DOCUMENT,
        kind=documents_pb2.VerificationDocument.BUSINESS_LICENCE,
        title="Licence",
        media_type="application/pdf",
        size_bytes=2_097_152,
        sha256="ab" * 32,
        create_time=time(timedelta(hours=3)),
        decision=V.REJECTED,
        decide_time=time(timedelta(hours=1)),
    )
    erased = documents_pb2.VerificationDocument(
        name=f"{TIANSHAN}/verificationDocuments/d2",
        kind=documents_pb2.VerificationDocument.OTHER,
        media_type="image/png",
        size_bytes=14,
        create_time=time(timedelta(hours=3)),
        erase_time=time(timedelta(hours=2)),
    )
    platform.accounts.answers |= {
        "GetEnterprise": enterprise(),
        "ListVerificationDocuments": documents_pb2.ListVerificationDocumentsResponse(
            verification_documents=[kept, erased]
        ),
        "ListReviewNotes": enterprises_pb2.ListReviewNotesResponse(
            review_notes=[
                enterprises_pb2.ReviewNote(
                    name=f"{TIANSHAN}/reviewNotes/n1",
                    author="clients/reviewer",
                    text="Called them",
                    create_time=time(timedelta(minutes=5)),
                )
            ]
        ),
    }

    shown = numerator("review", "show", "tianshan").stdout

    assert shown.startswith("tianshan  Tianshan  PENDING: Please look\n")
    assert "sales_team=west" in shown
    (first,) = [line for line in shown.splitlines() if line.startswith("tianshan/d1")]
    assert first.split()[1:5] == ["BUSINESS_LICENCE", "Licence", "application/pdf", "2,048"]
    assert first.split()[-5:] == ["kept", "REJECTED", "1h", "0m", "ago"]
    (second,) = [line for line in shown.splitlines() if line.startswith("tianshan/d2")]
    assert "14 B" in second
    assert second.endswith("erased 2h 0m ago  -")
    assert "Called them  clients/reviewer  5m ago" in shown


def pieces(*data: bytes, length: int) -> list[HttpBody]:
    """A download that says that it is so long."""
    told = Any()
    told.Pack(Int64Value(value=length))
    return [
        HttpBody(content_type="application/pdf", data=each, extensions=[] if place else [told])
        for place, each in enumerate(data)
    ]


def test_download__saves_for_the_reader_alone(numerator, platform, tmp_path):
    """With the purpose that was given; what is there already is not overwritten."""
    platform.accounts.answers["DownloadVerificationDocument"] = pieces(b"%PDF-", b"rest", length=9)
    call = ("review", "download", "tianshan/d1", "--purpose", "first look", "--to", str(tmp_path))

    assert numerator(*call).stdout == f"{tmp_path}/d1.pdf  9 B\n"

    file = tmp_path / "d1.pdf"
    assert file.read_bytes() == b"%PDF-rest"
    assert file.stat().st_mode & 0o777 == 0o600
    (request,) = platform.accounts.asked("DownloadVerificationDocument")
    assert (request.name, request.purpose) == (DOCUMENT, "first look")
    again = numerator(*call)
    assert (again.exit_code, "there already" in again.stderr) == (2, True)


def test_download__that_breaks_off_is_not_saved(numerator, platform, tmp_path):
    """Half a document is none."""
    platform.accounts.answers["DownloadVerificationDocument"] = pieces(b"%PDF-", length=9)

    result = numerator("review", "download", "tianshan/d1", "-p", "x", "--to", str(tmp_path))

    assert (result.exit_code, "the connection broke off" in result.stderr) == (3, True)
    assert not (tmp_path / "d1.pdf").exists()


@pytest.mark.parametrize(
    ("verb", "method", "documents"),
    [
        ("verify", "VerifyEnterprise", True),
        ("reject", "RejectEnterprise", True),
        ("revoke", "RevokeVerification", False),
        ("restore", "RestoreVerification", False),
    ],
)
def test_decide__sends_what_it_rests_on(numerator, platform, verb, method, documents):
    """The note, the etag and, where there are some, the documents; the answer says where the enterprise stands."""
    platform.accounts.answers[method] = enterprise(verification=V.VERIFIED)
    more = ("-d", "tianshan/d1", "-d", DOCUMENT) if documents else ()

    result = numerator("review", verb, "tianshan", "--note", "Please look", "--etag", "r2", *more)

    assert result.stdout == "tianshan  Tianshan  VERIFIED: Please look\n"
    (request,) = platform.accounts.asked(method)
    assert (request.name, request.note, request.etag) == (TIANSHAN, "Please look", "r2")
    assert request.request_id
    if documents:
        assert list(request.documents) == [DOCUMENT, DOCUMENT]


def test_decide__refused_says_why(numerator, platform):
    """As the platform says it."""
    platform.accounts.answers["RejectEnterprise"] = ServiceError(
        Kind.FAILED_PRECONDITION, "VERIFICATION_STATE", "REJECT is not possible"
    )

    result = numerator("review", "reject", "tianshan", "-n", "no")

    assert (result.exit_code, result.stderr) == (1, "error: REJECT is not possible (VERIFICATION_STATE)\n")


def test_note__is_kept(numerator, platform):
    """With its text as it was typed."""
    platform.accounts.answers["CreateReviewNote"] = enterprises_pb2.ReviewNote(author="clients/operator")

    assert (
        numerator("review", "note", "tianshan", "Called them: fine").stdout == "noted by clients/operator\n"
    )

    (request,) = platform.accounts.asked("CreateReviewNote")
    assert (request.parent, request.text) == (TIANSHAN, "Called them: fine")
