"""Batches of accounts that are bound by invitation, and their rows."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict

from services.accounts.model.invitations import BindingBatch, BindingRow, RowState
from services.accounts.store.rows import After, Row, only
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of

ROWS = "binding rows"
"""The log of changes that watchers follow."""


def insert_batch(tx: Transaction, batch: BindingBatch, rows: Iterable[BindingRow]) -> None:
    """Keep a new batch with its rows."""
    enterprise = enterprise_of(batch.name)
    tx.execute(
        """
        insert into binding_batches (enterprise, name, display_name, creator, create_time)
        values (%s, %s, %s, %s, %s)
        """,
        (enterprise, batch.name, batch.display_name, batch.creator, batch.create_time),
    )
    tx.executemany(
        """
        insert into binding_rows (enterprise, name, batch, position, network, server, labels, group_id, note, external_key,
                                  state, reason, account, token_hash, expire_time, revision, update_time)
        values (%(enterprise)s, %(name)s, %(batch)s, %(position)s, %(network)s, %(server)s, %(labels)s, %(group_id)s,
                %(note)s, %(external_key)s, %(state)s, %(reason)s, %(account)s, %(token_hash)s, %(expire_time)s,
                %(revision)s, %(update_time)s)
        """,
        [{**asdict(row), "labels": list(row.labels), "enterprise": enterprise} for row in rows],
    )


def get_batch(tx: Transaction, name: str) -> BindingBatch:
    """The batch. Raises NOT_FOUND."""
    found = tx.execute(
        "select * from binding_batches where enterprise = %s and name = %s", (enterprise_of(name), name)
    )
    return _batch(only(found, name))


def lock_batch(tx: Transaction, name: str) -> BindingBatch:
    """The batch, which nobody else changes before this transaction ends. Raises NOT_FOUND."""
    found = tx.execute(
        "select * from binding_batches where enterprise = %s and name = %s for update",
        (enterprise_of(name), name),
    )
    return _batch(only(found, name))


def list_batches(tx: Transaction, enterprise: str, *, after: After, limit: int) -> list[BindingBatch]:
    """An enterprise's batches, oldest first."""
    rows = tx.execute(
        """
        select * from binding_batches where enterprise = %s and (create_time, name) > (%s, %s)
        order by create_time, name limit %s
        """,
        (enterprise, *after, limit),
    )
    return [_batch(row) for row in rows]


def progress(tx: Transaction, enterprise: str, batches: Iterable[str]) -> dict[str, Mapping[RowState, int]]:
    """How many rows of each batch are in each state."""
    found: dict[str, dict[RowState, int]] = {batch: {} for batch in batches}
    counts = tx.execute(
        """
        select batch, state, count(*) as count from binding_rows
        where enterprise = %s and batch = any (%s) group by batch, state
        """,
        (enterprise, list(found)),
    )
    for each in counts:
        found[each["batch"]][RowState(each["state"])] = each["count"]
    return dict(found)


def count_rows(tx: Transaction) -> dict[RowState, int]:
    """How many rows are in each state, of all batches that there are; needs the platform's scope."""
    rows = tx.execute("select state, count(*) as count from binding_rows group by state")
    return {RowState(row["state"]): row["count"] for row in rows}


def cancel_batch(tx: Transaction, batch: str) -> list[str]:
    """Cancel a batch, and all of its rows that are not bound. Returns these rows' names."""
    enterprise = enterprise_of(batch)
    tx.execute(
        "update binding_batches set cancel_time = %s where enterprise = %s and name = %s",
        (tx.now, enterprise, batch),
    )
    cancelled = tx.execute(
        """
        update binding_rows set state = 'CANCELLED', reason = '', revision = revision + 1, update_time = %s
        where enterprise = %s and batch = %s and state not in ('BOUND', 'CANCELLED')
        returning name, position
        """,
        (tx.now, enterprise, batch),
    )
    names = [str(row["name"]) for row in sorted(cancelled, key=lambda row: row["position"])]
    _tell(tx, batch, names)
    return names


def expire_rows(tx: Transaction, limit: int) -> int:
    """Mark rows whose links have not been used in time; needs the platform's scope. Returns how many."""
    expired = tx.execute(
        """
        update binding_rows set state = 'EXPIRED', reason = '', revision = revision + 1, update_time = %(now)s
        where (enterprise, name) in (
          select enterprise, name from binding_rows
          where state in ('INVITED', 'STARTED', 'REFUSED') and expire_time <= %(now)s
          order by expire_time limit %(limit)s for update skip locked)
        returning batch, name
        """,
        {"now": tx.now, "limit": limit},
    ).fetchall()
    for row in expired:
        _tell(tx, row["batch"], [row["name"]])
    return len(expired)


def get_row(tx: Transaction, name: str) -> BindingRow:
    """The row. Raises NOT_FOUND."""
    found = tx.execute(
        "select * from binding_rows where enterprise = %s and name = %s", (enterprise_of(name), name)
    )
    return _row(only(found, name))


def lock_row(tx: Transaction, name: str) -> BindingRow:
    """The row, which nobody else changes before this transaction ends. Raises NOT_FOUND."""
    found = tx.execute(
        "select * from binding_rows where enterprise = %s and name = %s for update",
        (enterprise_of(name), name),
    )
    return _row(only(found, name))


def lock_invited(tx: Transaction, enterprise: str, token_hash: bytes) -> BindingRow | None:
    """The row whose link has this token, locked."""
    row = tx.execute(
        "select * from binding_rows where enterprise = %s and token_hash = %s for update",
        (enterprise, token_hash),
    ).fetchone()
    return _row(row) if row else None


def list_rows(
    tx: Transaction, batch: str, *, state: RowState | None, after: int, limit: int
) -> list[BindingRow]:
    """A batch's rows behind a position, in their order; only those in the state, where given."""
    rows = tx.execute(
        """
        select * from binding_rows
        where enterprise = %(enterprise)s and batch = %(batch)s and position > %(after)s
          and (%(state)s::text is null or state = %(state)s)
        order by position limit %(limit)s
        """,
        {
            "enterprise": enterprise_of(batch),
            "batch": batch,
            "after": after,
            "state": state,
            "limit": limit,
        },
    )
    return [_row(row) for row in rows]


def save_row(tx: Transaction, row: BindingRow) -> None:
    """Keep a row's change, and tell those who watch."""
    tx.execute(
        """
        update binding_rows set state = %s, reason = %s, account = %s, token_hash = %s, expire_time = %s, revision = %s,
                                update_time = %s
        where enterprise = %s and name = %s
        """,
        (
            row.state,
            row.reason,
            row.account,
            row.token_hash,
            row.expire_time,
            row.revision,
            row.update_time,
            enterprise_of(row.name),
            row.name,
        ),
    )
    _tell(tx, row.batch, [row.name])


def _tell(tx: Transaction, batch: str, names: Iterable[str]) -> None:
    for name in names:
        tx.append_change(ROWS, name, {"batch": batch}, enterprise=enterprise_of(batch))


def _batch(row: Row) -> BindingBatch:
    return BindingBatch(
        name=row["name"],
        display_name=row["display_name"],
        creator=row["creator"],
        create_time=row["create_time"],
        cancel_time=row["cancel_time"],
    )


def _row(row: Row) -> BindingRow:
    return BindingRow(
        name=row["name"],
        batch=row["batch"],
        position=row["position"],
        network=row["network"],
        server=row["server"],
        labels=tuple(row["labels"]),
        group_id=row["group_id"],
        note=row["note"],
        external_key=row["external_key"],
        token_hash=row["token_hash"],
        expire_time=row["expire_time"],
        update_time=row["update_time"],
        state=RowState(row["state"]),
        reason=row["reason"],
        account=row["account"],
        revision=row["revision"],
    )
