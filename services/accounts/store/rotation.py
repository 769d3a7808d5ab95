"""Where secrets lie that are to be sealed or wrapped anew. Needs the platform's scope."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.accounts.store.secrets import SEALED_TABLES, SealedTable, lock_data_keys
from services.chassis.database import Transaction


@dataclass(frozen=True, slots=True)
class WrappedTable:
    """
    A table whose rows hold a secret that a master key has wrapped; its column `master_key` says which.

    Attributes:
        name: of the table.
        column: of the wrapped secret; null where there is none any more.
        place: what the wrapping is bound to: columns, or SQL expressions of the row.
        owner: whose it is, for the audit trail: an SQL expression of the row, '' for the platform's.
    """

    name: str
    column: str
    place: Sequence[str]
    owner: str


WRAPPED_TABLES = (
    WrappedTable("data_keys", "wrapped", ("enterprise", "'data key'", "version::text"), "enterprise"),
    WrappedTable("applications", "sealed_secret", ("server", "client_id"), "''"),
)
"""Wherever there is something that a master key has wrapped."""


@dataclass(frozen=True, slots=True)
class WrappedRow:
    """A row of such a table. Nobody else changes it before the transaction ends."""

    id: str
    owner: str
    master_key: str
    wrapped: bytes
    place: Sequence[str]


def lock_wrapped(tx: Transaction, table: WrappedTable, newest: str, limit: int) -> list[WrappedRow]:
    """Rows that another master key than the newest has wrapped."""
    rows = tx.execute(
        f"""
        select ctid::text as id, {table.owner} as owner, master_key, {table.column} as wrapped,
               array[{", ".join(table.place)}] as place
        from {table.name} where master_key <> %s and {table.column} is not null limit %s for no key update
        """,  # noqa: S608 -- the names are our own
        (newest, limit),
    )
    return [WrappedRow(**row) for row in rows]


def rewrap(tx: Transaction, table: WrappedTable, master_key: str, wrapped: Mapping[str, bytes]) -> None:
    """Keep what the newest master key has wrapped, by row."""
    tx.executemany(
        f"update {table.name} set master_key = %s, {table.column} = %s where ctid = %s::tid",  # noqa: S608
        [(master_key, secret, row) for row, secret in wrapped.items()],
    )


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A row with sealed secrets, by column. Nobody else changes it before the transaction ends."""

    id: str
    resource: str
    key_version: int
    sealed: Mapping[str, bytes]


def lock_sealed(
    tx: Transaction, table: SealedTable, enterprise: str, versions: Sequence[int], limit: int
) -> list[SealedRow]:
    """An enterprise's rows that these versions of its data key have sealed."""
    rows = tx.execute(
        f"""
        select ctid::text as id, {table.resource} as resource, key_version, {", ".join(table.fields)}
        from {table.name} where enterprise = %s and key_version = any (%s) limit %s for no key update
        """,  # noqa: S608
        (enterprise, list(versions), limit),
    )
    return [
        SealedRow(
            row["id"],
            row["resource"],
            row["key_version"],
            {column: row[column] for column in table.fields if row[column] is not None},
        )
        for row in rows
    ]


def reseal(tx: Transaction, table: SealedTable, version: int, row: SealedRow) -> None:
    """Keep a row's secrets as this version of the data key has sealed them."""
    columns = ", ".join(f"{column} = %s" for column in row.sealed)
    tx.execute(
        f"update {table.name} set key_version = %s, {columns} where ctid = %s::tid",  # noqa: S608
        (version, *row.sealed.values(), row.id),
    )


def begin_rotation(tx: Transaction, whose: str) -> datetime:
    """When the rotation of an enterprise's data key, or of all (''), began that has not ended: now, unless it is resumed."""
    tx.execute(
        "insert into key_rotations (whose, begin_time) values (%s, %s) on conflict do nothing",
        (whose, tx.now),
    )
    (row,) = tx.execute("select begin_time from key_rotations where whose = %s", (whose,)).fetchall()
    begun: datetime = row["begin_time"]
    return begun


def end_rotation(tx: Transaction, whose: str) -> None:
    """Remember that it has ended."""
    tx.execute("delete from key_rotations where whose = %s", (whose,))


def enterprises_to_rotate(
    tx: Transaction, whose: str, begun: datetime, *, after: str, limit: int
) -> list[str]:
    """The enterprises, by name, that have no new data key since a rotation began, or still have an old one besides."""
    rows = tx.execute(
        """
        select enterprise from data_keys
        where wrapped is not null and enterprise > %(after)s and (%(whose)s = '' or enterprise = %(whose)s)
        group by enterprise having max(create_time) <= %(begun)s or count(*) > 1
        order by enterprise limit %(limit)s
        """,
        {"whose": whose, "begun": begun, "after": after, "limit": limit},
    )
    return [row["enterprise"] for row in rows]


def count_enterprises_to_rotate(tx: Transaction) -> int:
    """How many enterprises have still to get their new data key from the rotations that have begun."""
    (row,) = tx.execute(
        """
        select count(distinct left_over.enterprise) as count from key_rotations r cross join lateral (
          select enterprise from data_keys where wrapped is not null and (r.whose = '' or enterprise = r.whose)
          group by enterprise having max(create_time) <= r.begin_time or count(*) > 1
        ) left_over
        """
    ).fetchall()
    return int(row["count"])


def count_wrapped(tx: Transaction) -> list[tuple[str, int]]:
    """What each master key has wrapped, by its id."""
    tables = " union all ".join(
        f"select master_key from {table.name} where {table.column} is not null"  # noqa: S608 -- the names are our own
        for table in WRAPPED_TABLES
    )
    rows = tx.execute(f"select master_key, count(*) as count from ({tables}) wrapped group by master_key")  # noqa: S608
    return [(row["master_key"], row["count"]) for row in rows]


def data_key_time(tx: Transaction, enterprise: str, version: int) -> datetime:
    """When a data key was made."""
    (row,) = tx.execute(
        "select create_time from data_keys where enterprise = %s and version = %s", (enterprise, version)
    ).fetchall()
    made: datetime = row["create_time"]
    return made


def older_versions(tx: Transaction, enterprise: str, version: int) -> list[int]:
    """The versions before this one that still open something."""
    rows = tx.execute(
        "select version from data_keys where enterprise = %s and version < %s and wrapped is not null",
        (enterprise, version),
    )
    return [row["version"] for row in rows]


def delete_data_keys(tx: Transaction, enterprise: str, versions: Sequence[int]) -> bool:
    """
    Delete data keys that have sealed nothing that there is. False: they have, so look again.

    Waits for those who seal, and they wait for the end of this transaction: nobody seals with what is deleted.
    """
    lock_data_keys(tx, enterprise)
    for table in SEALED_TABLES:
        used = tx.execute(
            f"select from {table.name} where enterprise = %s and key_version = any (%s) limit 1",
            (enterprise, list(versions)),
        )
        if used.rowcount:
            return False
    tx.execute(
        "delete from data_keys where enterprise = %s and version = any (%s)", (enterprise, list(versions))
    )
    return True
