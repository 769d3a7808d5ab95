"""Documents by which enterprises show who they are, and their sealed content."""

from collections.abc import Collection, Sequence
from datetime import datetime

from services.accounts.model.documents import Document, DocumentKind
from services.accounts.model.enterprises import Verification
from services.accounts.store.rows import After, Row, only
from services.accounts.store.secrets import Sealed
from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.names import enterprise_of


def insert_document(tx: Transaction, document: Document, pieces: Sequence[Sealed]) -> None:
    """Keep a new document and its content."""
    enterprise = enterprise_of(document.name)
    tx.execute(
        """
        insert into verification_documents (enterprise, name, kind, title, media_type, size_bytes, sha256, uploader, create_time,
                                            expire_time, revision)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            enterprise,
            document.name,
            document.kind,
            document.title,
            document.media_type,
            document.size_bytes,
            document.sha256,
            document.uploader,
            document.create_time,
            document.expire_time,
            document.revision,
        ),
    )
    tx.executemany(
        "insert into document_pieces (enterprise, document, number, key_version, sealed) values (%s, %s, %s, %s, %s)",
        [
            (enterprise, document.name, number, piece.key_version, piece.sealed)
            for number, piece in enumerate(pieces)
        ],
    )


def find_kept(tx: Transaction, enterprise: str, sha256: bytes) -> Document | None:
    """The document with this content that was not erased."""
    row = tx.execute(
        "select * from verification_documents where enterprise = %s and sha256 = %s and erase_time is null",
        (enterprise, sha256),
    ).fetchone()
    return _document(row) if row else None


def count_kept(tx: Transaction, enterprise: str) -> int:
    """How many documents of an enterprise were not erased."""
    found = tx.execute(
        "select count(*) as count from verification_documents where enterprise = %s and erase_time is null",
        (enterprise,),
    )
    return int(found.fetchall()[0]["count"])


def get_document(tx: Transaction, name: str) -> Document:
    """What is known of a document. Raises NOT_FOUND."""
    found = tx.execute(
        "select * from verification_documents where enterprise = %s and name = %s",
        (enterprise_of(name), name),
    )
    return _document(only(found, name))


def lock_documents(tx: Transaction, enterprise: str, names: Collection[str]) -> list[Document]:
    """Documents that nobody else changes before this transaction ends. Raises NOT_FOUND for the first that there is not."""
    rows = tx.execute(
        "select * from verification_documents where enterprise = %s and name = any (%s) order by name for update",
        (enterprise, list(names)),
    )
    found = {row["name"]: _document(row) for row in rows}
    for name in names:
        if name not in found:
            raise not_found(name)
    return list(found.values())


def lock_expired(tx: Transaction, limit: int) -> list[Document]:
    """Documents whose time is over, but for those that somebody else changes just now; needs the platform's scope."""
    rows = tx.execute(
        """
        select * from verification_documents where expire_time <= %s
        order by expire_time limit %s for update skip locked
        """,
        (tx.now, limit),
    )
    return [_document(row) for row in rows]


def list_documents(tx: Transaction, enterprise: str, *, after: After, limit: int) -> list[Document]:
    """An enterprise's documents, oldest first."""
    rows = tx.execute(
        """
        select * from verification_documents
        where enterprise = %s and (create_time, name) > (%s, %s)
        order by create_time, name limit %s
        """,
        (enterprise, *after, limit),
    )
    return [_document(row) for row in rows]


def read_pieces(tx: Transaction, name: str) -> list[Sealed]:
    """A document's content in its order, which stays as it is until this transaction ends."""
    rows = tx.execute(
        """
        select key_version, sealed from document_pieces where enterprise = %s and document = %s
        order by number for share
        """,
        (enterprise_of(name), name),
    )
    return [Sealed(row["key_version"], row["sealed"]) for row in rows]


def save_document(tx: Transaction, document: Document) -> None:
    """Keep what may change of a document; when it was erased, its content goes."""
    tx.execute(
        """
        update verification_documents
        set expire_time = %s, erase_time = %s, decision = %s, decide_time = %s, revision = %s
        where enterprise = %s and name = %s
        """,
        (
            document.expire_time,
            document.erase_time,
            document.decision,
            document.decide_time,
            document.revision,
            enterprise_of(document.name),
            document.name,
        ),
    )
    if document.erase_time is not None:
        tx.execute(
            "delete from document_pieces where enterprise = %s and document = %s",
            (enterprise_of(document.name), document.name),
        )


def keep_until(tx: Transaction, enterprise: str, expire_time: datetime | None) -> None:
    """Keep an enterprise's documents until a time; None: until something is decided."""
    tx.execute(
        """
        update verification_documents set expire_time = %s, revision = revision + 1
        where enterprise = %s and erase_time is null
        """,
        (expire_time, enterprise),
    )


def _document(row: Row) -> Document:
    return Document(
        name=row["name"],
        kind=DocumentKind(row["kind"]),
        title=row["title"],
        media_type=row["media_type"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        uploader=row["uploader"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        erase_time=row["erase_time"],
        decision=Verification(row["decision"]) if row["decision"] else None,
        decide_time=row["decide_time"],
        revision=row["revision"],
    )
