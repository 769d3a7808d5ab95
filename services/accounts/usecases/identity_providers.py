"""Identity providers of enterprises, and logins of members by them. A provider is never asked while a transaction is open."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urljoin

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from pydantic import SecretStr

from services.accounts import store
from services.accounts.model import Member, check_etag, normal_email
from services.accounts.model.identity_providers import (
    LOGIN_LIFE,
    IdentityProvider,
    login_refused,
    provider_missing,
)
from services.accounts.model.sessions import Device
from services.accounts.oidc import Providers, Relying, User, authorization_url
from services.accounts.store import identity_providers as rows
from services.accounts.store import members as member_rows
from services.accounts.store.secrets import Sealed
from services.accounts.usecases import sessions
from services.accounts.usecases.secrets import Vault
from services.chassis.database import PLATFORM, Database, Tenant, Transaction
from services.chassis.errors import FieldViolation, ServiceError, etag_mismatch, invalid, invalid_fields
from services.chassis.names import enterprise_of
from services.chassis.outgoing_rules import OutgoingError, OutgoingRules
from services.chassis.principal import Principal

_SECRET = "client_secret"  # noqa: S105 -- the name of a field
_VERIFIER = "code_verifier"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a request gives of a provider; None for what stays."""

    issuer: str | None
    client_id: str | None
    client_secret: SecretStr | None
    required: bool | None
    email_domains: tuple[str, ...] | None


def check_issuer(rules: OutgoingRules, issuer: str) -> None:
    """Raises INVALID_ARGUMENT (`URL_REFUSED`, `ADDRESS_REFUSED`) for an issuer that we would not ask."""
    try:
        rules.check(issuer)
    except OutgoingError as error:
        raise invalid("issuer", error.detail, reason=error.failure) from None
    if "?" in issuer:
        raise invalid("issuer", "must have no query", reason="URL_REFUSED")


def update_provider(
    tx: Transaction, vault: Vault, enterprise: str, given: Settings, *, etag: str, caller: Principal
) -> IdentityProvider:
    """
    Set or change a provider.

    Another issuer or client is another provider: its users are others, and the secret of the one before is not told to it.

    Raises NOT_FOUND, INVALID_ARGUMENT (`REQUIRED`) or ABORTED (`ETAG_MISMATCH`).
    """
    store.lock_enterprise(tx, enterprise)
    found = rows.find_provider(tx, enterprise)
    if found is None:
        return _create(tx, vault, enterprise, given, etag=etag, caller=caller)
    before, _ = found
    check_etag(etag, before.revision)
    after = before.updated(
        tx.now,
        issuer=given.issuer,
        client_id=given.client_id,
        required=given.required,
        email_domains=given.email_domains,
    )
    if after.is_other_than(before):
        if given.client_secret is None:
            raise invalid("client_secret", "is needed for another issuer or client", reason="REQUIRED")
        _forget_users(tx, enterprise, caller.subject)
    rows.save_provider(tx, after)
    if given.client_secret is not None:
        rows.save_client_secret(tx, enterprise, vault.seal(tx, given.client_secret, after.name, _SECRET))
    _audit(
        tx,
        caller.subject,
        "identity_provider.updated",
        after.name,
        **_told(after),
        new_secret=str(given.client_secret is not None),
    )
    return after


def delete_provider(tx: Transaction, name: str, *, etag: str, caller: Principal) -> None:
    """Forget a provider and end the sessions that it has opened. Raises NOT_FOUND or ABORTED (`ETAG_MISMATCH`)."""
    store.lock_enterprise(tx, enterprise_of(name) or "")
    provider = rows.get_provider(tx, name)
    check_etag(etag, provider.revision)
    _forget_users(tx, provider.enterprise, caller.subject)
    rows.delete_provider(tx, provider.enterprise)
    _audit(tx, caller.subject, "identity_provider.deleted", name, issuer=provider.issuer)


def unlink_member(tx: Transaction, name: str, *, caller: Principal) -> None:
    """Forget which user of the provider a member is, and end the sessions that it opened. Raises NOT_FOUND."""
    member_rows.lock_member(tx, name)
    if rows.unlink(tx, enterprise_of(name) or "", name):
        sessions.end_by_provider(tx, enterprise_of(name) or "", name, actor=caller.subject)
        _audit(tx, caller.subject, "member.identity_unlinked", name)


@dataclass(frozen=True, slots=True)
class StartedLogin:
    """Where the browser goes, and until when the login can be completed."""

    authorization_url: str
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class LoginRedirect:
    """
    What a browser brought back from a provider: a code, or an error instead.

    Attributes:
        iss: what the provider calls itself (RFC 9207); "" when it does not say.
        browser: the secret of the browser.
    """

    state: str
    code: str
    error: str
    iss: str
    browser: str


class OidcLogins:
    """
    Logins by providers. One instance serves all threads.

    Args:
        database: opened for each step.
        vault: seals verifiers, and opens them and the clients' secrets.
        providers: asks providers.
        public_url: any URL of the gateway, to whose origin providers send browsers back.
    """

    def __init__(self, database: Database, vault: Vault, providers: Providers, *, public_url: str) -> None:
        self._database = database
        self._vault = vault
        self._providers = providers
        self._public_url = public_url

    def redirect_uri(self, enterprise: str) -> str:
        """
        Where an enterprise's provider sends browsers back to: to a path of its own.

        So no provider gets hold of what another one's answer was for (a mix-up), whether it names itself there or not.
        """
        return urljoin(self._public_url, f"/oidc/{enterprise.rpartition('/')[2]}")

    def look(self, issuer: str) -> None:
        """See whether a provider can be used. Raises as `Providers.metadata` does."""
        self._providers.metadata(issuer)

    def start(self, enterprise: str, browser: SecretStr) -> StartedLogin:
        """
        Make a state, a nonce and a PKCE verifier for a browser, and say where it goes.

        Raises FAILED_PRECONDITION (`IDENTITY_PROVIDER_MISSING`), or as `Providers.metadata` does.
        """
        with self._database.transaction(Tenant(enterprise)) as tx:
            provider, _ = _provider(tx, enterprise)
        metadata = self._providers.metadata(provider.issuer)
        state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        verifier = SecretStr(secrets.token_urlsafe(48))
        with self._database.transaction(Tenant(enterprise)) as tx:
            current, _ = _provider(tx, enterprise)
            if current.is_other_than(provider):
                raise provider_missing(enterprise)
            login = rows.OidcLogin(
                enterprise=enterprise,
                state_hash=_hash(state),
                browser_hash=_hash(browser.get_secret_value()),
                nonce=nonce,
                key_version=0,
                sealed_verifier=b"",
                expire_time=tx.now + LOGIN_LIFE,
            )
            kept = self._vault.seal(tx, verifier, login.name, _VERIFIER)
            rows.insert_login(tx, replace(login, key_version=kept.key_version, sealed_verifier=kept.sealed))
        url = authorization_url(
            metadata,
            client_id=provider.client_id,
            redirect_uri=self.redirect_uri(enterprise),
            state=state,
            nonce=nonce,
            challenge=create_s256_code_challenge(verifier.get_secret_value()),
        )
        return StartedLogin(url, login.expire_time)

    def complete(self, enterprise: str, redirect: LoginRedirect, device: Device) -> sessions.Opened:
        """
        Ask the provider who it was, and open a session. What is refused is written to the audit trail.

        Raises UNAUTHENTICATED (`LOGIN_…`, `EMAIL_UNVERIFIED`, `MEMBER_UNKNOWN`, `IDENTITY_LINKED`), PERMISSION_DENIED
        (`EMAIL_DOMAIN_NOT_ALLOWED`), INVALID_ARGUMENT, or as `Providers.authenticate` does.
        """
        if bool(redirect.code) == bool(redirect.error):
            raise invalid("code", "is needed, or error; not both")
        try:
            return self._complete(enterprise, redirect, device)
        except ServiceError as refused:
            with self._database.transaction(Tenant(enterprise)) as tx:
                login = rows.lock_login(tx, enterprise, _hash(redirect.state))
                # Of states that never were there could be any number.
                if login is not None:
                    _audit(
                        tx,
                        "anonymous",
                        "login.refused",
                        login.name,
                        reason=refused.reason,
                        cause=refused.metadata.get("cause", ""),
                    )
            raise

    def _complete(self, enterprise: str, redirect: LoginRedirect, device: Device) -> sessions.Opened:
        claimed = self._claim(enterprise, redirect)
        metadata = self._providers.metadata(claimed.provider.issuer)
        if redirect.iss != metadata.issuer and (redirect.iss or metadata.names_issuer):
            raise login_refused(
                "LOGIN_ISSUER", "this is the answer of another identity provider: log in again"
            )
        if redirect.error:
            raise login_refused("LOGIN_DENIED", "the identity provider did not log you in")
        user = self._providers.authenticate(
            metadata, claimed.relying, code=redirect.code, verifier=claimed.verifier, nonce=claimed.nonce
        )
        with self._database.transaction(PLATFORM) as tx:
            provider, _ = _provider(tx, enterprise)
            if provider.is_other_than(claimed.provider):
                raise _state_invalid()
            member = _member_of(tx, provider, user)
            provider.check_member(member)
            return sessions.open_by_provider(tx, member, device)

    def _claim(self, enterprise: str, redirect: LoginRedirect) -> "_Claimed":
        """What was begun with a state, which does not work again whatever happens after this."""
        with self._database.transaction(Tenant(enterprise)) as tx:
            login = rows.lock_login(tx, enterprise, _hash(redirect.state))
            if login is None or not hmac.compare_digest(login.browser_hash, _hash(redirect.browser)):
                raise _state_invalid()
            if login.use_time is not None:
                raise login_refused(
                    "LOGIN_STATE_USED", "this login was completed before, or tried to be: log in again"
                )
            if login.expire_time <= tx.now:
                raise login_refused(
                    "LOGIN_STATE_EXPIRED", "the login took longer than ten minutes: log in again"
                )
            rows.use_login(tx, login)
            provider, secret = _provider(tx, enterprise)
            sealed = Sealed(login.key_version, login.sealed_verifier)
            return _Claimed(
                provider,
                Relying(
                    provider.client_id,
                    self._vault.open(tx, secret, provider.name, _SECRET),
                    self.redirect_uri(enterprise),
                ),
                self._vault.open(tx, sealed, login.name, _VERIFIER),
                login.nonce,
            )


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A login whose state is used up, and what completes it."""

    provider: IdentityProvider
    relying: Relying
    verifier: SecretStr
    nonce: str


def _create(
    tx: Transaction, vault: Vault, enterprise: str, given: Settings, *, etag: str, caller: Principal
) -> IdentityProvider:
    missing = [name for name in ("issuer", "client_id", "client_secret") if getattr(given, name) is None]
    if etag:
        raise etag_mismatch()
    if given.issuer is None or given.client_id is None or given.client_secret is None:
        raise invalid_fields(
            [FieldViolation(each, "is needed the first time", "REQUIRED") for each in missing]
        )
    provider = IdentityProvider(
        enterprise=enterprise,
        issuer=given.issuer,
        client_id=given.client_id,
        create_time=tx.now,
        update_time=tx.now,
        required=bool(given.required),
        email_domains=given.email_domains or (),
    )
    rows.insert_provider(tx, provider, vault.seal(tx, given.client_secret, provider.name, _SECRET))
    _audit(tx, caller.subject, "identity_provider.created", provider.name, **_told(provider))
    return provider


def _forget_users(tx: Transaction, enterprise: str, actor: str) -> None:
    """What the provider of before has said counts no more."""
    rows.unlink(tx, enterprise)
    rows.delete_logins(tx, enterprise)
    sessions.end_by_provider(tx, enterprise, actor=actor)


def _provider(tx: Transaction, enterprise: str) -> tuple[IdentityProvider, Sealed]:
    found = rows.find_provider(tx, enterprise)
    if found is None:
        raise provider_missing(enterprise)
    return found


def _member_of(tx: Transaction, provider: IdentityProvider, user: User) -> Member:
    """The member who is this user: who was linked with it, or else has the address, and is linked now."""
    linked = rows.find_linked(tx, provider.enterprise, user.subject)
    if linked is not None:
        return member_rows.read_member(tx, linked)
    if not user.email or not user.email_verified:
        raise login_refused(
            "EMAIL_UNVERIFIED",
            "the identity provider does not say that it has verified your address: ask its administrator",
        )
    # Some letters outside ASCII are letters of ASCII when they are small.
    email = normal_email(user.email) if user.email.isascii() else user.email
    found = store.find_login(tx, email)
    if found is None or enterprise_of(found.member.name) != provider.enterprise:
        raise login_refused(
            "MEMBER_UNKNOWN", "no member of the enterprise has your address: ask to be invited"
        )
    member = member_rows.read_member(tx, found.member.name)
    if rows.link(tx, member.name, user.subject):
        _audit(tx, member.name, "member.identity_linked", member.name, issuer=provider.issuer)
    elif rows.find_linked(tx, provider.enterprise, user.subject) != member.name:
        raise login_refused(
            "IDENTITY_LINKED",
            "the member with your address is another user of the identity provider: an OWNER can unlink them",
        )
    return member


def _state_invalid() -> ServiceError:
    return login_refused("LOGIN_STATE_INVALID", "this browser has begun no such login: log in again")


def _told(provider: IdentityProvider) -> Mapping[str, str | Sequence[str]]:
    """What the audit trail tells of a provider's settings."""
    return {
        "issuer": provider.issuer,
        "client_id": provider.client_id,
        "required": str(provider.required),
        "email_domains": provider.email_domains,
    }


def _audit(tx: Transaction, actor: str, action: str, subject: str, **detail: str | Sequence[str]) -> None:
    store.audit(
        tx, enterprise=enterprise_of(subject) or "", actor=actor, action=action, subject=subject, **detail
    )


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
