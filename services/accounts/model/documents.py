"""Documents by which an enterprise shows who it is."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from services.accounts.model.enterprises import Verification
from services.chassis.errors import Kind, ServiceError, invalid
from services.chassis.names import NamePattern

DOCUMENT_NAME = NamePattern("enterprises/{enterprise}/verificationDocuments/{verification_document}")

MOST_BYTES = 10 * 1024 * 1024
"""How large a document may be."""

MOST_DOCUMENTS = 10
"""How many documents we keep for an enterprise at a time."""

KEPT = timedelta(days=90)
"""How long a document is kept after the decision, or after its upload while no decision was asked for."""

_SIGNATURES = {
    b"%PDF-": "application/pdf",
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
}


class DocumentKind(StrEnum):
    """What a document is, as the enterprise says."""

    BUSINESS_LICENCE = "BUSINESS_LICENCE"
    LETTER_OF_AUTHORITY = "LETTER_OF_AUTHORITY"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class Document:
    """
    What is known of a document; its content is apart, sealed.

    Attributes:
        title: what the enterprise calls it.
        sha256: of its content.
        expire_time: when the content will be erased; None while a decision is awaited, and once it was erased.
        erase_time: when the content was erased; None: it was not.
        decision: what was last decided on the strength of it; None: nothing.
        revision: grows with every change.
    """

    name: str
    kind: DocumentKind
    title: str
    media_type: str
    size_bytes: int
    sha256: bytes
    uploader: str
    create_time: datetime
    expire_time: datetime | None = None
    erase_time: datetime | None = None
    decision: Verification | None = None
    decide_time: datetime | None = None
    revision: int = 1

    def check_kept(self) -> None:
        """Raises FAILED_PRECONDITION (`DOCUMENT_ERASED`) when the content is gone."""
        if self.erase_time is not None:
            raise ServiceError(
                Kind.FAILED_PRECONDITION,
                "DOCUMENT_ERASED",
                f"the content of {self.name} was erased; its hash is what remains",
                metadata={"name": self.name},
            )

    def check_free(self) -> None:
        """Raises FAILED_PRECONDITION (`DOCUMENT_IN_USE`) when a decision rests on it."""
        if self.decision is not None:
            raise ServiceError(
                Kind.FAILED_PRECONDITION,
                "DOCUMENT_IN_USE",
                f"a decision rests on {self.name}: it is erased {KEPT.days} days after that",
                metadata={"name": self.name, "decision": self.decision},
            )

    def decided(self, decision: Verification, now: datetime) -> Self:
        """The document on whose strength something was decided. Raises as `check_kept`."""
        self.check_kept()
        return replace(self, decision=decision, decide_time=now, revision=self.revision + 1)

    def erased(self, now: datetime) -> Self:
        """The document without its content."""
        return replace(self, expire_time=None, erase_time=now, revision=self.revision + 1)


def media_type_of(content: bytes) -> str:
    """
    What a document's bytes are, by how they begin. Nothing is decoded.

    Raises INVALID_ARGUMENT (`DOCUMENT_TYPE`) when they are neither PDF, JPEG nor PNG.
    """
    for signature, media_type in _SIGNATURES.items():
        if content.startswith(signature):
            return media_type
    raise invalid("content", "must be a PDF, JPEG or PNG", reason="DOCUMENT_TYPE")


def documents_full(enterprise: str) -> ServiceError:
    """The enterprise has as many documents as we keep."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "DOCUMENTS_FULL",
        f"{enterprise} has {MOST_DOCUMENTS} documents: erase one that no decision rests on, or put several into one PDF",
        metadata={"enterprise": enterprise, "limit": str(MOST_DOCUMENTS)},
    )
