"""What operators write on enterprises for other operators."""

from services.accounts.model.enterprises import ReviewNote
from services.accounts.store.rows import After
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of


def insert_note(tx: Transaction, note: ReviewNote) -> None:
    """Keep a note."""
    tx.execute(
        "insert into review_notes (enterprise, name, author, text, create_time) values (%s, %s, %s, %s, %s)",
        (enterprise_of(note.name), note.name, note.author, note.text, note.create_time),
    )


def list_notes(tx: Transaction, enterprise: str, *, after: After, limit: int) -> list[ReviewNote]:
    """The notes on an enterprise, oldest first."""
    rows = tx.execute(
        """
        select name, author, text, create_time from review_notes
        where enterprise = %s and (create_time, name) > (%s, %s)
        order by create_time, name limit %s
        """,
        (enterprise, *after, limit),
    )
    return [ReviewNote(**row) for row in rows]
