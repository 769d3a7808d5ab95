"""Enterprises."""

from psycopg.types.json import Jsonb

from services.accounts.model import (
    Enterprise,
    Verification,
)
from services.accounts.store.rows import After, Row, only
from services.chassis.database import Transaction


def insert_enterprise(tx: Transaction, enterprise: Enterprise) -> None:
    """Keep a new enterprise."""
    tx.execute(
        """
        insert into enterprises (enterprise, display_name, industry, region, verification, verification_note,
                                 revision, create_time, update_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            enterprise.name,
            enterprise.display_name,
            enterprise.industry,
            enterprise.region,
            enterprise.verification,
            enterprise.verification_note,
            enterprise.revision,
            enterprise.create_time,
            enterprise.update_time,
        ),
    )


def update_enterprise(tx: Transaction, enterprise: Enterprise) -> None:
    """Keep what may change of an enterprise."""
    tx.execute(
        """
        update enterprises
        set display_name = %s, industry = %s, region = %s, second_factor_required = %s, tier = %s, attributes = %s,
            verification = %s, verification_note = %s, revision = %s, update_time = %s
        where enterprise = %s
        """,
        (
            enterprise.display_name,
            enterprise.industry,
            enterprise.region,
            enterprise.second_factor_required,
            enterprise.tier,
            Jsonb(dict(enterprise.attributes)),
            enterprise.verification,
            enterprise.verification_note,
            enterprise.revision,
            enterprise.update_time,
            enterprise.name,
        ),
    )


def get_enterprise(tx: Transaction, name: str) -> Enterprise:
    """The enterprise. Raises NOT_FOUND."""
    found = tx.execute("select * from enterprises where enterprise = %s", (name,))
    return _enterprise(only(found, name))


def lock_enterprise(tx: Transaction, name: str) -> Enterprise:
    """The enterprise, which nobody else changes before this transaction ends. Raises NOT_FOUND."""
    found = tx.execute("select * from enterprises where enterprise = %s for update", (name,))
    return _enterprise(only(found, name))


def list_enterprises(
    tx: Transaction, *, verification: Verification | None, after: After, limit: int
) -> list[Enterprise]:
    """Enterprises of the transaction's scope, oldest first."""
    rows = tx.execute(
        """
        select * from enterprises
        where (create_time, enterprise) > (%(time)s, %(name)s)
          and (%(verification)s::text is null or verification = %(verification)s)
        order by create_time, enterprise limit %(limit)s
        """,
        {"time": after[0], "name": after[1], "verification": verification, "limit": limit},
    )
    return [_enterprise(row) for row in rows]


def count_enterprises(tx: Transaction) -> dict[str, int]:
    """How many enterprises there are in each state of verification."""
    rows = tx.execute("select verification, count(*) as count from enterprises group by verification")
    return {row["verification"]: row["count"] for row in rows}


def _enterprise(row: Row) -> Enterprise:
    return Enterprise(
        name=row["enterprise"],
        display_name=row["display_name"],
        industry=row["industry"],
        region=row["region"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        verification=Verification(row["verification"]),
        verification_note=row["verification_note"],
        revision=row["revision"],
        second_factor_required=row["second_factor_required"],
        tier=row["tier"],
        attributes=row["attributes"],
    )
