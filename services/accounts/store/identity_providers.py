"""Identity providers, whom they have linked, and logins by them."""

from dataclasses import dataclass, fields
from datetime import datetime

from services.accounts.model.identity_providers import IdentityProvider, login_name
from services.accounts.store.rows import Row, only
from services.accounts.store.secrets import Sealed
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of


@dataclass(frozen=True, slots=True)
class OidcLogin:
    """
    A login by a provider, between its start and its completion.

    Attributes:
        state_hash: SHA-256 of the state.
        browser_hash: SHA-256 of the secret of the browser that began it.
        use_time: when it was completed, or tried to be; it works once.
    """

    enterprise: str
    state_hash: bytes
    browser_hash: bytes
    nonce: str
    key_version: int
    sealed_verifier: bytes
    expire_time: datetime
    use_time: datetime | None = None

    @property
    def name(self) -> str:
        """What the audit trail and the seal of the verifier call it."""
        return login_name(self.enterprise, self.state_hash)


def find_provider(tx: Transaction, enterprise: str) -> tuple[IdentityProvider, Sealed] | None:
    """An enterprise's provider and its secret, which nobody changes before this transaction ends; None: it has none."""
    row = tx.execute(
        "select * from identity_providers where enterprise = %s for share", (enterprise,)
    ).fetchone()
    return (_provider(row), Sealed(row["key_version"], row["sealed_secret"])) if row else None


def get_provider(tx: Transaction, name: str) -> IdentityProvider:
    """A provider. Raises NOT_FOUND."""
    found = tx.execute("select * from identity_providers where enterprise = %s", (enterprise_of(name),))
    return _provider(only(found, name))


def password_is_refused(tx: Transaction, enterprise: str) -> bool:
    """Whether members log in by a provider only, OWNERs apart."""
    found = tx.execute("select from identity_providers where enterprise = %s and required", (enterprise,))
    return found.rowcount == 1


def insert_provider(tx: Transaction, provider: IdentityProvider, secret: Sealed) -> None:
    """Keep a new provider. Lock the enterprise first, or another transaction may keep one, too."""
    tx.execute(
        """
        insert into identity_providers (enterprise, issuer, client_id, key_version, sealed_secret, required,
                                        email_domains, revision, create_time, update_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            provider.enterprise,
            provider.issuer,
            provider.client_id,
            secret.key_version,
            secret.sealed,
            provider.required,
            list(provider.email_domains),
            provider.revision,
            provider.create_time,
            provider.update_time,
        ),
    )


def save_provider(tx: Transaction, provider: IdentityProvider) -> None:
    """Keep what has changed of a provider."""
    tx.execute(
        """
        update identity_providers
        set issuer = %s, client_id = %s, required = %s, email_domains = %s, revision = %s, update_time = %s
        where enterprise = %s
        """,
        (
            provider.issuer,
            provider.client_id,
            provider.required,
            list(provider.email_domains),
            provider.revision,
            provider.update_time,
            provider.enterprise,
        ),
    )


def save_client_secret(tx: Transaction, enterprise: str, secret: Sealed) -> None:
    """Keep a provider's secret, in place of the one before."""
    tx.execute(
        "update identity_providers set key_version = %s, sealed_secret = %s where enterprise = %s",
        (secret.key_version, secret.sealed, enterprise),
    )


def delete_provider(tx: Transaction, enterprise: str) -> None:
    """Forget a provider, with its links and the logins by it."""
    tx.execute("delete from identity_providers where enterprise = %s", (enterprise,))


def find_linked(tx: Transaction, enterprise: str, subject: str) -> str | None:
    """The member who is this user of the provider, by name."""
    row = tx.execute(
        "select member from identity_links where enterprise = %s and subject = %s", (enterprise, subject)
    ).fetchone()
    return row["member"] if row else None


def link(tx: Transaction, member: str, subject: str) -> bool:
    """Keep which user a member is. False: the member is another one already."""
    inserted = tx.execute(
        """
        insert into identity_links (enterprise, member, subject, create_time) values (%s, %s, %s, %s)
        on conflict do nothing
        """,
        (enterprise_of(member), member, subject, tx.now),
    )
    return inserted.rowcount == 1


def unlink(tx: Transaction, enterprise: str, member: str = "") -> int:
    """Forget which user a member is, or all members; returns how many."""
    return tx.execute(
        "delete from identity_links where enterprise = %s and (%s = '' or member = %s)",
        (enterprise, member, member),
    ).rowcount


def insert_login(tx: Transaction, login: OidcLogin) -> None:
    """Keep a login that has begun."""
    tx.execute(
        """
        insert into oidc_logins (enterprise, state_hash, browser_hash, nonce, key_version, sealed_verifier, expire_time)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (
            login.enterprise,
            login.state_hash,
            login.browser_hash,
            login.nonce,
            login.key_version,
            login.sealed_verifier,
            login.expire_time,
        ),
    )


def lock_login(tx: Transaction, enterprise: str, state_hash: bytes) -> OidcLogin | None:
    """The login with this state; nobody else uses it before this transaction ends."""
    row = tx.execute(
        "select * from oidc_logins where enterprise = %s and state_hash = %s for update",
        (enterprise, state_hash),
    ).fetchone()
    return OidcLogin(**{each.name: row[each.name] for each in fields(OidcLogin)}) if row else None


def use_login(tx: Transaction, login: OidcLogin) -> None:
    """From now on the state does not work again."""
    tx.execute(
        "update oidc_logins set use_time = %s where enterprise = %s and state_hash = %s",
        (tx.now, login.enterprise, login.state_hash),
    )


def delete_logins(tx: Transaction, enterprise: str) -> None:
    """What an enterprise's members have begun at a provider of before does not work any more."""
    tx.execute("delete from oidc_logins where enterprise = %s", (enterprise,))


def purge_logins(tx: Transaction) -> None:
    """Forget logins whose time is over; needs the platform's scope."""
    tx.execute("delete from oidc_logins where expire_time <= %s", (tx.now,))


def _provider(row: Row) -> IdentityProvider:
    return IdentityProvider(
        enterprise=row["enterprise"],
        issuer=row["issuer"],
        client_id=row["client_id"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        required=row["required"],
        email_domains=tuple(row["email_domains"]),
        revision=row["revision"],
    )
