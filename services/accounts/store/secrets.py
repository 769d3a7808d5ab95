"""Secrets, all of them sealed: data keys, tokens, and what servers know us as."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from services.accounts.store.rows import only
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of


@dataclass(frozen=True, slots=True)
class SealedTable:
    """
    A table whose rows hold secrets that the enterprise's data key has sealed.

    Attributes:
        name: of the table. It has the columns `enterprise` and `key_version`, the key of all secrets in the row, with a
            foreign key to `data_keys` and an index.
        resource: what the seal calls a row: a column, or an SQL expression of the row.
        fields: the columns of sealed secrets (bytea, may be null), each with what the seal calls it.
    """

    name: str
    resource: str
    fields: Mapping[str, str]


SEALED_TABLES = (
    SealedTable("tokens", "account", {"sealed": "access_token", "sealed_refresh": "refresh_token"}),
    SealedTable(
        "bindings",
        "enterprise || '/bindings/' || encode(state_hash, 'hex')",
        {"sealed_verifier": "code_verifier"},
    ),
    SealedTable("second_factors", "member", {"sealed_seed": "totp_seed"}),
    SealedTable(
        "identity_providers", "enterprise || '/identityProvider'", {"sealed_secret": "client_secret"}
    ),
    SealedTable(
        "oidc_logins",
        "enterprise || '/oidcLogins/' || encode(state_hash, 'hex')",
        {"sealed_verifier": "code_verifier"},
    ),
    SealedTable("webhook_secrets", "endpoint || '/secrets/' || version", {"sealed": "signing_secret"}),
    SealedTable("document_pieces", "document || '/pieces/' || number", {"sealed": "content"}),
)
"""Wherever there are sealed secrets: what is not listed here is not rotated. A test holds it against the schema."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret as it is kept, and the version of the data key that sealed it."""

    key_version: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """An enterprise's data key, as it is kept: wrapped by this master key; None when it was shredded."""

    version: int
    master_key: str
    wrapped: bytes | None


def newest_data_key(tx: Transaction, enterprise: str) -> WrappedKey | None:
    """The key with which an enterprise's new secrets are sealed. Nobody deletes it before this transaction ends."""
    tx.execute("select pg_advisory_xact_lock_shared(hashtextextended(%s, 0))", (f"data keys {enterprise}",))
    row = tx.execute(
        """
        select version, master_key, wrapped from data_keys where enterprise = %s order by version desc limit 1
        """,
        (enterprise,),
    ).fetchone()
    return WrappedKey(**row) if row else None


def lock_data_keys(tx: Transaction, enterprise: str) -> None:
    """Wait for those who seal by an enterprise's keys; they then wait until this transaction ends."""
    tx.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"data keys {enterprise}",))


def get_data_key(tx: Transaction, enterprise: str, version: int) -> WrappedKey:
    """The key with which an older secret was sealed. Raises NOT_FOUND."""
    found = tx.execute(
        "select version, master_key, wrapped from data_keys where enterprise = %s and version = %s",
        (enterprise, version),
    )
    return WrappedKey(**only(found, f"{enterprise}, data key {version}"))


def insert_data_key(tx: Transaction, enterprise: str, key: WrappedKey) -> bool:
    """Keep a new key. False: another transaction was first."""
    inserted = tx.execute(
        """
        insert into data_keys (enterprise, version, master_key, wrapped, create_time) values (%s, %s, %s, %s, %s)
        on conflict do nothing
        """,
        (enterprise, key.version, key.master_key, key.wrapped, tx.now),
    )
    return inserted.rowcount == 1


@dataclass(frozen=True, slots=True)
class SealedToken:
    """
    An account's access token, and the application of ours that it was given to.

    Attributes:
        expire_time: when it stops working; None: never, as far as the server says.
        sealed_refresh: the token that gets the next one, where the server gave one.
        refresh_time: when to get it; None: never.
    """

    account: str
    client_id: str
    key_version: int
    sealed: bytes
    expire_time: datetime | None = None
    sealed_refresh: bytes | None = None
    refresh_time: datetime | None = None


def save_token(tx: Transaction, token: SealedToken) -> int:
    """
    Keep an account's token, in place of the one before. Returns its version, which is larger than that of all before.

    Lock the account first. The version is the database's clock, so that it grows after an unbinding and a restored backup, too.
    """
    saved = tx.execute(
        """
        insert into tokens (enterprise, account, client_id, key_version, sealed, expire_time, sealed_refresh, refresh_time,
                            update_time, version)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, extract(epoch from clock_timestamp()) * 1000000)
        on conflict (enterprise, account) do update set
          client_id = excluded.client_id, key_version = excluded.key_version, sealed = excluded.sealed,
          expire_time = excluded.expire_time, sealed_refresh = excluded.sealed_refresh,
          refresh_time = excluded.refresh_time, refresh_tries = 0, update_time = excluded.update_time,
          version = greatest(excluded.version, tokens.version + 1)
        returning version
        """,
        (
            enterprise_of(token.account),
            token.account,
            token.client_id,
            token.key_version,
            token.sealed,
            token.expire_time,
            token.sealed_refresh,
            token.refresh_time,
            tx.now,
        ),
    )
    return int(saved.fetchall()[0]["version"])


def take_token(tx: Transaction, account: str) -> SealedToken | None:
    """Forget an account's token, and return it this last time."""
    row = tx.execute(
        """
        delete from tokens where enterprise = %s and account = %s
        returning account, client_id, key_version, sealed, expire_time, sealed_refresh
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
    issuer: str = ""
    names_issuer: bool = False
    pkce: bool = True


_APPLICATION = (
    "select server, redirect_uri, client_id, master_key, sealed_secret, "
    "authorize_endpoint, token_endpoint, revoke_endpoint, issuer, names_issuer, pkce from applications "
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
                                  token_endpoint, revoke_endpoint, issuer, names_issuer, pkce, create_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
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
            application.issuer,
            application.names_issuer,
            application.pkce,
            tx.now,
        ),
    )
    if inserted.rowcount == 1:
        return application
    return find_application(tx, application.server, application.redirect_uri) or application
