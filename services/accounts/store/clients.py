"""Partner apps."""

from services.accounts.model import (
    CLIENT_NAME,
    Client,
)
from services.accounts.store.rows import After, Row
from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.names import enterprise_of


def insert_client(tx: Transaction, client: Client, secret_hash: bytes) -> None:
    """Keep a new client."""
    tx.execute(
        """
        insert into clients (enterprise, name, client_id, display_name, scopes, secret_hash, create_time)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (
            enterprise_of(client.name),
            client.name,
            CLIENT_NAME.parse(client.name)["client"],
            client.display_name,
            sorted(client.scopes),
            secret_hash,
            client.create_time,
        ),
    )


def list_clients(tx: Transaction, enterprise: str, *, after: After, limit: int) -> list[Client]:
    """An enterprise's clients, oldest first."""
    rows = tx.execute(
        """
        select * from clients
        where enterprise = %s and (create_time, name) > (%s, %s)
        order by create_time, name limit %s
        """,
        (enterprise, *after, limit),
    )
    return [_client(row) for row in rows]


def find_client(tx: Transaction, client_id: str) -> tuple[Client, bytes] | None:
    """
    The client with this id and its secret's hash, of all enterprises: needs the platform's scope.

    It does not change until the transaction ends, as `revocations.read_time` wants it.
    """
    row = tx.execute("select * from clients where client_id = %s for share", (client_id,)).fetchone()
    return (_client(row), row["secret_hash"]) if row else None


def delete_client(tx: Transaction, name: str) -> None:
    """Forget a client. Raises NOT_FOUND."""
    deleted = tx.execute(
        "delete from clients where enterprise = %s and name = %s", (enterprise_of(name), name)
    )
    if deleted.rowcount == 0:
        raise not_found(name)


def _client(row: Row) -> Client:
    return Client(
        name=row["name"],
        display_name=row["display_name"],
        scopes=frozenset(row["scopes"]),
        create_time=row["create_time"],
    )
