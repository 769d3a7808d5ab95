"""Partner apps."""

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from services.accounts.model import CLIENT_NAME
from services.accounts.model.clients import Client, ClientRights
from services.accounts.store.rows import After, Row, only
from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.names import enterprise_of

_SELECT: LiteralString = """
  select *, array(
    select array[scope, group_id] from client_grants g where g.enterprise = c.enterprise and g.client = c.name
  ) as grants
  from clients c
"""


@dataclass(frozen=True, slots=True)
class ClientSecrets:
    """What is kept of a client's secrets: the present one, and the one before while it works."""

    present: bytes
    old: bytes | None = None


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
            sorted(client.rights.scopes),
            secret_hash,
            client.create_time,
        ),
    )
    _insert_grants(tx, client)


def update_client(tx: Transaction, client: Client) -> None:
    """Save a client's name, rights and revision."""
    key = (enterprise_of(client.name), client.name)
    tx.execute(
        "update clients set display_name = %s, scopes = %s, revision = %s where enterprise = %s and name = %s",
        (client.display_name, sorted(client.rights.scopes), client.revision, *key),
    )
    tx.execute("delete from client_grants where enterprise = %s and client = %s", key)
    _insert_grants(tx, client)


def replace_secret(tx: Transaction, client: Client, secret_hash: bytes) -> None:
    """Save a new secret; the present one works on until the client's `old_secret_end_time`, if that is set."""
    tx.execute(
        """
        update clients set
          old_secret_hash = case when %(end)s::timestamptz is not null then secret_hash end,
          old_secret_end_time = %(end)s, old_secret_use_time = null,
          secret_hash = %(hash)s, revision = %(revision)s
        where enterprise = %(enterprise)s and name = %(name)s
        """,
        {
            "end": client.old_secret_end_time,
            "hash": secret_hash,
            "revision": client.revision,
            "enterprise": enterprise_of(client.name),
            "name": client.name,
        },
    )


def forget_old_secret(tx: Transaction, client: Client) -> None:
    """Save that the secret before the present one works no more."""
    tx.execute(
        """
        update clients set
          old_secret_hash = null, old_secret_end_time = null, old_secret_use_time = null, revision = %s
        where enterprise = %s and name = %s
        """,
        (client.revision, enterprise_of(client.name), client.name),
    )


def purge_old_secrets(tx: Transaction) -> None:
    """Forget the secrets whose grace has ended; needs the platform's scope."""
    tx.execute(
        """
        update clients set old_secret_hash = null, old_secret_end_time = null, old_secret_use_time = null
        where old_secret_end_time <= %s
        """,
        (tx.now,),
    )


def get_client(tx: Transaction, name: str) -> Client:
    """A client. Raises NOT_FOUND."""
    found = tx.execute(_SELECT + "where enterprise = %s and name = %s", (enterprise_of(name), name))
    return _client(only(found, name), tx.now)


def lock_client(tx: Transaction, name: str) -> Client:
    """A client that nobody else changes until the transaction ends. Raises NOT_FOUND."""
    key = (enterprise_of(name), name)
    only(tx.execute("select from clients where enterprise = %s and name = %s for update", key), name)
    return get_client(tx, name)


def list_clients(tx: Transaction, enterprise: str, *, after: After, limit: int) -> list[Client]:
    """An enterprise's clients, oldest first."""
    rows = tx.execute(
        _SELECT
        + "where enterprise = %s and (create_time, name) > (%s, %s) order by create_time, name limit %s",
        (enterprise, *after, limit),
    )
    return [_client(row, tx.now) for row in rows]


def find_client(tx: Transaction, client_id: str) -> tuple[Client, ClientSecrets] | None:
    """
    The client with this id, of all enterprises, and what is kept of its secrets: needs the platform's scope.

    It does not change until the transaction ends, as `revocations.read_time` wants it.
    """
    row = tx.execute(
        "select name, secret_hash, old_secret_hash, old_secret_end_time from clients where client_id = %s for no key update",
        (client_id,),
    ).fetchone()
    if row is None:
        return None
    ends = row["old_secret_end_time"]
    old = row["old_secret_hash"] if ends and ends > tx.now else None
    return get_client(tx, row["name"]), ClientSecrets(row["secret_hash"], old)


def note_use(tx: Transaction, client: Client, *, old_secret: bool) -> None:
    """Save that a client came in, with its old secret or the present one; once an hour."""
    hour = tx.now.replace(minute=0, second=0, microsecond=0)
    tx.execute(
        """
        update clients set
          last_use_time = %(hour)s,
          old_secret_use_time = case when %(old)s then %(hour)s else old_secret_use_time end
        where enterprise = %(enterprise)s and name = %(name)s
          and (last_use_time is distinct from %(hour)s or %(old)s and old_secret_use_time is distinct from %(hour)s)
        """,
        {
            "hour": hour,
            "old": old_secret,
            "enterprise": enterprise_of(client.name),
            "name": client.name,
        },
    )


def delete_client(tx: Transaction, name: str) -> None:
    """Forget a client. Raises NOT_FOUND."""
    deleted = tx.execute(
        "delete from clients where enterprise = %s and name = %s", (enterprise_of(name), name)
    )
    if deleted.rowcount == 0:
        raise not_found(name)


def _insert_grants(tx: Transaction, client: Client) -> None:
    tx.executemany(
        "insert into client_grants (enterprise, client, scope, group_id) values (%s, %s, %s, %s)",
        [
            (enterprise_of(client.name), client.name, scope, group)
            for scope, groups in client.rights.grants.items()
            for group in groups
        ],
    )


def _client(row: Row, now: datetime) -> Client:
    grants: dict[str, frozenset[str]] = {}
    for scope, group in row["grants"]:
        grants[scope] = grants.get(scope, frozenset()) | {group}
    ends = row["old_secret_end_time"]
    in_grace = ends is not None and ends > now
    return Client(
        name=row["name"],
        display_name=row["display_name"],
        rights=ClientRights(frozenset(row["scopes"]), grants),
        create_time=row["create_time"],
        last_use_time=row["last_use_time"],
        old_secret_end_time=ends if in_grace else None,
        old_secret_use_time=row["old_secret_use_time"] if in_grace else None,
        revision=row["revision"],
    )
