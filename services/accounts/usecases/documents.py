"""Documents by which an enterprise shows who it is: taken in, read for a purpose, and erased in time."""

import hashlib
from collections.abc import Sequence

from services.accounts import store
from services.accounts.model import ENTERPRISE_NAME, Verification, VerificationStep, check_etag
from services.accounts.model.documents import (
    DOCUMENT_NAME,
    KEPT,
    MOST_DOCUMENTS,
    Document,
    DocumentKind,
    documents_full,
    media_type_of,
)
from services.accounts.store import documents as rows
from services.accounts.store import secrets
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import VaultError
from services.chassis.database import Transaction
from services.chassis.errors import Kind, ServiceError
from services.chassis.ids import new_id
from services.chassis.names import enterprise_of

PIECE_BYTES = 128 * 1024
"""In pieces of this size a document is sealed, and sent."""

_FIELD = "content"
_RETENTION = "retention"
_BATCH = 100


def upload(
    tx: Transaction,
    vault: Vault,
    enterprise: str,
    content: bytes,
    *,
    kind: DocumentKind,
    title: str,
    uploader: str,
) -> Document:
    """
    Keep a document, unless the enterprise has the very same: then that is returned as it is.

    Raises NOT_FOUND, INVALID_ARGUMENT (`DOCUMENT_TYPE`) or FAILED_PRECONDITION (`VERIFICATION_STATE`, `DOCUMENTS_FULL`).
    """
    media_type, sha256 = media_type_of(content), hashlib.sha256(content).digest()
    verification = store.lock_enterprise(tx, enterprise).verification
    if (known := rows.find_kept(tx, enterprise, sha256)) is not None:
        return known
    if verification is Verification.VERIFIED:
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "VERIFICATION_STATE",
            f"{enterprise} is VERIFIED: no document is needed",
            metadata={"name": enterprise, "verification": verification},
        )
    if rows.count_kept(tx, enterprise) >= MOST_DOCUMENTS:
        raise documents_full(enterprise)
    document = Document(
        DOCUMENT_NAME.format(**ENTERPRISE_NAME.parse(enterprise, "parent"), verification_document=new_id()),
        kind,
        title,
        media_type,
        len(content),
        sha256,
        uploader,
        create_time=tx.now,
        expire_time=None if verification is Verification.PENDING else tx.now + KEPT,
    )
    key = vault.newest_key(tx, enterprise)
    pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]
    rows.insert_document(
        tx,
        document,
        [
            secrets.Sealed(key.version, key.seal_bytes(piece, _piece(document.name, number), _FIELD))
            for number, piece in enumerate(pieces)
        ],
    )
    store.audit(
        tx,
        enterprise=enterprise,
        actor=uploader,
        action="document.uploaded",
        subject=document.name,
        kind=kind,
        sha256=sha256.hex(),
    )
    return document


def read(tx: Transaction, vault: Vault, name: str, *, actor: str, purpose: str) -> tuple[Document, bytes]:
    """
    A document and its content, for a purpose; who read it is written to the audit trail.

    Raises NOT_FOUND, FAILED_PRECONDITION (`DOCUMENT_ERASED`, `SECRETS_SHREDDED`), or VaultError when it is not what was uploaded.
    """
    enterprise = enterprise_of(name) or ""
    (document,) = rows.lock_documents(tx, enterprise, [name])
    document.check_kept()
    sealed = rows.read_pieces(tx, name)
    keys = {
        version: vault.unwrap(enterprise, secrets.get_data_key(tx, enterprise, version))
        for version in {piece.key_version for piece in sealed}
    }
    content = b"".join(
        keys[piece.key_version].open_bytes(piece.sealed, _piece(name, number), _FIELD)
        for number, piece in enumerate(sealed)
    )
    if hashlib.sha256(content).digest() != document.sha256:
        raise VaultError(f"the content of {name} is not what was uploaded")
    store.audit(tx, enterprise=enterprise, actor=actor, action="document.read", subject=name, purpose=purpose)
    return document, content


def erase(tx: Transaction, name: str, *, etag: str, actor: str) -> Document:
    """
    Erase a document's content; what is known of it stays.

    Raises NOT_FOUND, ABORTED (`ETAG_MISMATCH`) or FAILED_PRECONDITION (`DOCUMENT_IN_USE`).
    """
    (document,) = rows.lock_documents(tx, enterprise_of(name) or "", [name])
    if document.erase_time is not None:
        return document
    check_etag(etag, document.revision)
    document.check_free()
    return _erase(tx, document, actor)


def erase_expired(tx: Transaction) -> int:
    """Erase some of the documents whose time is over; needs the platform's scope. Returns how many."""
    expired = rows.lock_expired(tx, _BATCH)
    for document in expired:
        _erase(tx, document, _RETENTION)
    return len(expired)


def follow_verification(
    tx: Transaction, enterprise: str, step: VerificationStep, verification: Verification, names: Sequence[str]
) -> None:
    """
    Keep documents for as long as a step of the verification needs them, and note on which of them (`names`) it rests.

    Raises NOT_FOUND, or FAILED_PRECONDITION (`DOCUMENT_ERASED`).
    """
    match step:
        case VerificationStep.REQUEST:
            rows.keep_until(tx, enterprise, None)
        case VerificationStep.VERIFY | VerificationStep.REJECT:
            for document in rows.lock_documents(tx, enterprise, names):
                rows.save_document(tx, document.decided(verification, tx.now))
            rows.keep_until(tx, enterprise, tx.now + KEPT)
        case _:
            pass


def _erase(tx: Transaction, document: Document, actor: str) -> Document:
    after = document.erased(tx.now)
    rows.save_document(tx, after)
    store.audit(
        tx,
        enterprise=enterprise_of(document.name) or "",
        actor=actor,
        action="document.erased",
        subject=document.name,
        sha256=document.sha256.hex(),
    )
    return after


def _piece(document: str, number: int) -> str:
    """What the seal calls a piece; `store.secrets.SEALED_TABLES` says the same in SQL."""
    return f"{document}/pieces/{number}"
