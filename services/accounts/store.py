"""Every SQL statement of accounts. Model objects in and out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg import Cursor, errors
from psycopg.types.json import Jsonb

from services.accounts.model import (
    CLIENT_NAME,
    Account,
    AccountState,
    Client,
    Enterprise,
    Member,
    Profile,
    Role,
    Verification,
    account_bound_elsewhere,
    email_taken,
)
from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.names import enterprise_of

Row = Mapping[str, Any]

After = tuple[datetime, str]
"""Creation time and name of the last item of a page: lists are sorted by them."""

BEGINNING: After = (datetime.min.replace(tzinfo=UTC), "")


# Enterprises


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
    """Keep what may change of an enterprise: its verification."""
    tx.execute(
        """
        update enterprises
        set verification = %s, verification_note = %s, revision = %s, update_time = %s
        where enterprise = %s
        """,
        (
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
    return _enterprise(_only(found, name))


def lock_enterprise(tx: Transaction, name: str) -> Enterprise:
    """The enterprise, which nobody else changes before this transaction ends. Raises NOT_FOUND."""
    found = tx.execute("select * from enterprises where enterprise = %s for update", (name,))
    return _enterprise(_only(found, name))


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
    )


# Members


@dataclass(frozen=True, slots=True)
class Login:
    """A member and what is kept of the password."""

    member: Member
    password_hash: str


def insert_member(tx: Transaction, member: Member, password_hash: str) -> None:
    """Keep a new member. Raises ALREADY_EXISTS (`EMAIL_TAKEN`)."""
    inserted = tx.execute(
        """
        insert into members (enterprise, name, email, display_name, role, password_hash, create_time)
        values (%s, %s, %s, %s, %s, %s, %s)
        on conflict (email) do nothing
        """,
        (
            enterprise_of(member.name),
            member.name,
            member.email,
            member.display_name,
            member.role,
            password_hash,
            member.create_time,
        ),
    )
    if inserted.rowcount == 0:
        raise email_taken()


def list_members(tx: Transaction, enterprise: str, *, after: After, limit: int) -> list[Member]:
    """An enterprise's members, oldest first."""
    rows = tx.execute(
        """
        select * from members
        where enterprise = %s and (create_time, name) > (%s, %s)
        order by create_time, name limit %s
        """,
        (enterprise, *after, limit),
    )
    return [_member(row) for row in rows]


def find_login(tx: Transaction, email: str) -> Login | None:
    """Who logs in with this address, of all enterprises: needs the platform's scope."""
    row = tx.execute("select * from members where email = %s", (email,)).fetchone()
    return Login(_member(row), row["password_hash"]) if row else None


def _member(row: Row) -> Member:
    return Member(
        name=row["name"],
        email=row["email"],
        display_name=row["display_name"],
        role=Role(row["role"]),
        create_time=row["create_time"],
    )


# Clients


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
    """The client with this id and its secret's hash, of all enterprises: needs the platform's scope."""
    row = tx.execute("select * from clients where client_id = %s", (client_id,)).fetchone()
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


# Accounts


def lock_network_account(tx: Transaction, server: str, network_account_id: str) -> None:
    """Nobody else binds this account of the network before this transaction ends, in whatever enterprise."""
    tx.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{server} {network_account_id}",))


def get_account(tx: Transaction, name: str) -> Account:
    """The account. Raises NOT_FOUND."""
    found = tx.execute(
        "select * from accounts where enterprise = %s and name = %s", (enterprise_of(name), name)
    )
    return _account(_only(found, name))


def lock_account(tx: Transaction, name: str) -> Account:
    """The account, which nobody else changes before this transaction ends. Raises NOT_FOUND."""
    found = tx.execute(
        "select * from accounts where enterprise = %s and name = %s for update", (enterprise_of(name), name)
    )
    return _account(_only(found, name))


def find_bound(tx: Transaction, enterprise: str, server: str, network_account_id: str) -> Account | None:
    """The account of the enterprise that this account of the network is or once was, locked."""
    row = tx.execute(
        """
        select * from accounts
        where enterprise = %s and server = %s and network_account_id = %s
        for update
        """,
        (enterprise, server, network_account_id),
    ).fetchone()
    return _account(row) if row else None


def has_account_on(tx: Transaction, enterprise: str, server: str) -> bool:
    """Whether the enterprise holds an account on this server, in whatever state but REVOKED."""
    found = tx.execute(
        "select from accounts where enterprise = %s and server = %s and state <> 'REVOKED' limit 1",
        (enterprise, server),
    )
    return found.rowcount == 1


def count_held(tx: Transaction, enterprise: str) -> int:
    """How many accounts the enterprise holds: all but those that are REVOKED."""
    found = tx.execute(
        "select count(*) as held from accounts where enterprise = %s and state <> 'REVOKED'", (enterprise,)
    )
    return int(found.fetchall()[0]["held"])


def lock_and_count_held(tx: Transaction, enterprise: str) -> int:
    """As `count_held`; others who lock and count wait until this transaction ends. Unbinding only lowers the number."""
    lock_enterprise(tx, enterprise)
    return count_held(tx, enterprise)


def count_accounts(tx: Transaction) -> list[tuple[str, str, int]]:
    """How many accounts there are, by network and state."""
    rows = tx.execute("select network, state, count(*) as count from accounts group by network, state")
    return [(row["network"], row["state"], row["count"]) for row in rows]


def list_accounts(
    tx: Transaction, enterprise: str, *, label: str, state: AccountState | None, after: After, limit: int
) -> list[Account]:
    """An enterprise's accounts, oldest first; only those with the label, and in the state, where given."""
    rows = tx.execute(
        """
        select * from accounts
        where enterprise = %(enterprise)s and (create_time, name) > (%(time)s, %(name)s)
          and (%(label)s = '' or %(label)s = any (labels))
          and (%(state)s::text is null or state = %(state)s)
        order by create_time, name limit %(limit)s
        """,
        {
            "enterprise": enterprise,
            "time": after[0],
            "name": after[1],
            "label": label,
            "state": state,
            "limit": limit,
        },
    )
    return [_account(row) for row in rows]


def save_account(tx: Transaction, account: Account) -> None:
    """Keep a new or changed account. Raises ALREADY_EXISTS (`ACCOUNT_BOUND_ELSEWHERE`)."""
    profile = account.profile
    try:
        tx.execute(
            """
            insert into accounts (enterprise, name, network, server, network_account_id, handle, display_name,
                                  software, software_version, labels, state, revision,
                                  create_time, update_time, authorize_time)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (enterprise, name) do update set
              handle = excluded.handle, display_name = excluded.display_name, software = excluded.software,
              software_version = excluded.software_version, labels = excluded.labels, state = excluded.state,
              revision = excluded.revision, update_time = excluded.update_time,
              authorize_time = excluded.authorize_time
            """,
            (
                enterprise_of(account.name),
                account.name,
                account.network,
                account.server,
                profile.network_account_id,
                profile.handle,
                profile.display_name,
                profile.software,
                profile.software_version,
                list(account.labels),
                account.state,
                account.revision,
                account.create_time,
                account.update_time,
                account.authorize_time,
            ),
        )
    except errors.UniqueViolation as error:
        if error.diag.constraint_name == "accounts_held":
            raise account_bound_elsewhere() from None
        raise


def _account(row: Row) -> Account:
    return Account(
        name=row["name"],
        network=row["network"],
        server=row["server"],
        profile=Profile(
            network_account_id=row["network_account_id"],
            handle=row["handle"],
            display_name=row["display_name"],
            software=row["software"],
            software_version=row["software_version"],
        ),
        labels=tuple(row["labels"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
        authorize_time=row["authorize_time"],
        state=AccountState(row["state"]),
        revision=row["revision"],
    )


# Secrets, all of them sealed


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """An enterprise's data key, as it is kept."""

    version: int
    wrapped: bytes


def newest_data_key(tx: Transaction, enterprise: str) -> WrappedKey | None:
    """The key with which an enterprise's new secrets are sealed."""
    row = tx.execute(
        "select version, wrapped from data_keys where enterprise = %s order by version desc limit 1",
        (enterprise,),
    ).fetchone()
    return WrappedKey(**row) if row else None


def get_data_key(tx: Transaction, enterprise: str, version: int) -> WrappedKey:
    """The key with which an older secret was sealed."""
    found = tx.execute(
        "select version, wrapped from data_keys where enterprise = %s and version = %s", (enterprise, version)
    )
    return WrappedKey(**_only(found, f"{enterprise}, data key {version}"))


def insert_data_key(tx: Transaction, enterprise: str, key: WrappedKey, master_key: str) -> bool:
    """Keep a new key, wrapped by `master_key`. False: another transaction was first."""
    inserted = tx.execute(
        """
        insert into data_keys (enterprise, version, master_key, wrapped, create_time) values (%s, %s, %s, %s, %s)
        on conflict do nothing
        """,
        (enterprise, key.version, master_key, key.wrapped, tx.now),
    )
    return inserted.rowcount == 1


@dataclass(frozen=True, slots=True)
class SealedToken:
    """An account's access token, and the application of ours that it was given to."""

    account: str
    client_id: str
    key_version: int
    sealed: bytes


def save_token(tx: Transaction, token: SealedToken) -> None:
    """Keep an account's token, in place of the one before."""
    tx.execute(
        """
        insert into tokens (enterprise, account, client_id, key_version, sealed, update_time)
        values (%s, %s, %s, %s, %s, %s)
        on conflict (enterprise, account) do update set
          client_id = excluded.client_id, key_version = excluded.key_version, sealed = excluded.sealed,
          update_time = excluded.update_time
        """,
        (
            enterprise_of(token.account),
            token.account,
            token.client_id,
            token.key_version,
            token.sealed,
            tx.now,
        ),
    )


def take_token(tx: Transaction, account: str) -> SealedToken | None:
    """Forget an account's token, and return it this last time."""
    row = tx.execute(
        """
        delete from tokens where enterprise = %s and account = %s
        returning account, client_id, key_version, sealed
        """,
        (enterprise_of(account), account),
    ).fetchone()
    return SealedToken(**row) if row else None


@dataclass(frozen=True, slots=True)
class SealedApplication:
    """What a server knows us as, its secret sealed."""

    server: str
    redirect_uri: str
    client_id: str
    master_key: str
    sealed_secret: bytes
    authorize_endpoint: str
    token_endpoint: str
    revoke_endpoint: str


_APPLICATION = (
    "select server, redirect_uri, client_id, master_key, sealed_secret, "
    "authorize_endpoint, token_endpoint, revoke_endpoint from applications "
)


def find_application(tx: Transaction, server: str, redirect_uri: str) -> SealedApplication | None:
    """What we are to a server, when it redirects to this URI."""
    row = tx.execute(
        _APPLICATION + "where server = %s and redirect_uri = %s", (server, redirect_uri)
    ).fetchone()
    return SealedApplication(**row) if row else None


def find_application_by_id(tx: Transaction, server: str, client_id: str) -> SealedApplication | None:
    """The application that a server knows by this id."""
    row = tx.execute(_APPLICATION + "where server = %s and client_id = %s", (server, client_id)).fetchone()
    return SealedApplication(**row) if row else None


def insert_application(tx: Transaction, application: SealedApplication) -> SealedApplication:
    """Keep an application, and return the one to use: that of another process, when it was first."""
    inserted = tx.execute(
        """
        insert into applications (server, redirect_uri, client_id, master_key, sealed_secret, authorize_endpoint,
                                  token_endpoint, revoke_endpoint, create_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (server, redirect_uri) do nothing
        """,
        (
            application.server,
            application.redirect_uri,
            application.client_id,
            application.master_key,
            application.sealed_secret,
            application.authorize_endpoint,
            application.token_endpoint,
            application.revoke_endpoint,
            tx.now,
        ),
    )
    if inserted.rowcount == 1:
        return application
    return find_application(tx, application.server, application.redirect_uri) or application


# Bindings


@dataclass(frozen=True, slots=True)
class Binding:
    """
    A binding between its start and its completion.

    Attributes:
        state_hash: SHA-256 of the state.
        caller: who started it.
        claim_time: when it was completed, or tried to be; it works once.
        request_id: of the request that claimed it.
        account: what came of it.
    """

    enterprise: str
    state_hash: bytes
    caller: str
    network: str
    server: str
    redirect_uri: str
    labels: tuple[str, ...]
    key_version: int
    sealed_verifier: bytes
    expire_time: datetime
    claim_time: datetime | None = None
    request_id: str = ""
    account: str | None = None

    @property
    def name(self) -> str:
        """What the audit trail and the seal of the verifier call it."""
        return binding_name(self.enterprise, self.state_hash)


def binding_name(enterprise: str, state_hash: bytes) -> str:
    """What a binding with this state is called, whether there is one or not."""
    return f"{enterprise}/bindings/{state_hash.hex()}"


def insert_binding(tx: Transaction, binding: Binding) -> None:
    """Keep a binding that has begun."""
    tx.execute(
        """
        insert into bindings (enterprise, state_hash, caller, network, server, redirect_uri, labels, key_version,
                              sealed_verifier, expire_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            binding.enterprise,
            binding.state_hash,
            binding.caller,
            binding.network,
            binding.server,
            binding.redirect_uri,
            list(binding.labels),
            binding.key_version,
            binding.sealed_verifier,
            binding.expire_time,
        ),
    )


def find_binding(tx: Transaction, enterprise: str, state_hash: bytes) -> Binding | None:
    """The binding with this state, locked."""
    row = tx.execute(
        "select * from bindings where enterprise = %s and state_hash = %s for update",
        (enterprise, state_hash),
    ).fetchone()
    return Binding(**{**row, "labels": tuple(row["labels"])}) if row else None


def claim_binding(tx: Transaction, binding: Binding, request_id: str) -> None:
    """From now on the state does not work again."""
    tx.execute(
        "update bindings set claim_time = %s, request_id = %s where enterprise = %s and state_hash = %s",
        (tx.now, request_id, binding.enterprise, binding.state_hash),
    )


def complete_binding(tx: Transaction, binding: Binding, account: str) -> None:
    """Keep what came of a binding."""
    tx.execute(
        "update bindings set account = %s where enterprise = %s and state_hash = %s",
        (account, binding.enterprise, binding.state_hash),
    )


def purge_bindings(tx: Transaction, before: datetime) -> int:
    """Forget bindings that expired before; needs the platform's scope. Returns how many."""
    return tx.execute("delete from bindings where expire_time < %s", (before,)).rowcount


# Audit


def audit(
    tx: Transaction, *, enterprise: str, actor: str, action: str, subject: str, **detail: str | Sequence[str]
) -> None:
    """Write down who (`actor`) did what (`action`, as `account.bound`) to whom. No secrets in `detail`."""
    tx.execute(
        "insert into audit (enterprise, time, actor, action, subject, detail) values (%s, %s, %s, %s, %s, %s)",
        (enterprise, tx.now, actor, action, subject, Jsonb(detail)),
    )


def _only(found: Cursor[Any], name: str) -> Row:
    """The row of the resource `name`. Raises NOT_FOUND."""
    row: Row | None = found.fetchone()
    if row is None:
        raise not_found(name)
    return row
