"""
Binding and unbinding accounts of a network by OAuth2: authorization code, PKCE and a one-time state.

A network's server is never called while a transaction is open: it may take seconds.
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from numerator.events.v1 import accounts_pb2 as events
from pydantic import SecretStr

from services.accounts import metrics, store
from services.accounts.model import (
    ACCOUNT_NAME,
    BINDING_LIFE,
    Account,
    AccountState,
    BindingRefusedError,
    binding_refused,
    check_etag,
    normal_server,
)
from services.accounts.model.bindings import account_out_of_reach
from services.accounts.model.groups import Path, group_id
from services.accounts.networks import Application, Authorization, Network, NetworkRefusedError
from services.accounts.store import groups
from services.accounts.store.secrets import Sealed
from services.accounts.usecases.applications import Applications
from services.accounts.usecases.secrets import Vault
from services.accounts.usecases.tokens import hand_over, keep_token
from services.chassis.database import Database, Scope, Transaction
from services.chassis.errors import ServiceError, invalid, not_found
from services.chassis.ids import new_id
from services.chassis.limits import StageLimitError, check_stage_limit
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal
from services.chassis.reach import EVERYTHING, Reach

_VERIFIER = "code_verifier"


@dataclass(frozen=True, slots=True)
class Started:
    """Where the account's holder has to agree, and until when."""

    authorization_url: str
    state: str
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Redirect:
    """
    What the holder's browser brought back from the network: a code, or an error instead.

    Attributes:
        iss: what the network's server calls itself (RFC 9207); "" when it does not say.
        browser: the secret of the browser that brought it, where it was given one.
    """

    state: str
    code: str
    error: str
    iss: str = ""
    browser: str = ""


@dataclass(frozen=True, slots=True)
class Invited:
    """Who binds by invitation: the row, and the secret of the browser that opened its link."""

    row: str
    browser: str


def _nothing_more(tx: Transaction, account: Account) -> None:
    """What a binding does besides binding, when nobody was invited."""


class Binder:
    """
    Binds and unbinds. One instance serves all threads.

    Args:
        database: opened for each step; there is none open during a call of a network.
        networks: by their kind, as `mastodon`.
        servers: the base URLs of the servers that may be bound to, besides those that a network is known to by hand.
            This list is the guard against requests to addresses of a caller's choice: nothing else decides whom we
            talk to.
        redirect_uri: where networks send the holder's browser back to.
        vault: seals the enterprises' secrets.
        publishing_key: publishing's public key, to which tokens are sealed.
    """

    def __init__(
        self,
        database: Database,
        networks: Mapping[str, Network],
        *,
        servers: frozenset[str],
        redirect_uri: str,
        vault: Vault,
        publishing_key: X25519PublicKey,
    ) -> None:
        self._database = database
        self._networks = networks
        self._servers = frozenset(normal_server(server) for server in servers)
        self._redirect_uri = redirect_uri
        self._vault = vault
        self._applications = Applications(networks, vault.kms, redirect_uri)
        self._publishing_key = publishing_key

    def start(
        self,
        scope: Scope,
        caller: Principal,
        enterprise: str,
        *,
        network: str,
        server: str,
        labels: tuple[str, ...],
        group: str = "",
        reach: Reach = EVERYTHING,
        invited: Invited | None = None,
    ) -> Started:
        """
        Make a state and a PKCE verifier, and say where the holder agrees.

        The account will be in `group` (a name; empty: where it is), which must be within the caller's `reach`.

        Raises NOT_FOUND, PERMISSION_DENIED (`OUT_OF_REACH`), INVALID_ARGUMENT (`GROUP_REQUIRED`, `SERVER_MALFORMED`,
        `SERVER_NOT_ALLOWED`), UNAVAILABLE (`NETWORK_UNAVAILABLE`), FAILED_PRECONDITION (`NETWORK_REFUSED`), or
        StageLimitError when the stage has no room and there is no account on the server that could be authorised anew.
        """
        server = self.check_server(network, server)
        application = self._application(scope, enterprise, network, server)
        state, verifier = secrets.token_urlsafe(32), SecretStr(secrets.token_urlsafe(48))
        if invited:
            # So that whoever gets the redirect knows whose it is, and that the holder's browser completes.
            state = f"invitation.{enterprise.rpartition('/')[2]}.{state}"
        with self._database.transaction(scope) as tx:
            place = _place(tx, enterprise, group, reach)
            # Nobody is sent to the network in vain. What counts is the completion: only then is it known which
            # account it is, and who else was faster.
            if not store.has_account_on(tx, enterprise, server):
                _check_room(caller, lambda: store.count_held(tx, enterprise))
            binding = store.Binding(
                enterprise=enterprise,
                state_hash=_hash(state),
                caller=caller.subject,
                network=network,
                server=server,
                redirect_uri=application.redirect_uri,
                labels=labels,
                key_version=0,
                sealed_verifier=b"",
                expire_time=tx.now + BINDING_LIFE,
                group_id=place,
                invitation=invited.row if invited else "",
                browser_hash=_hash(invited.browser) if invited else None,
            )
            kept = self._vault.seal(tx, verifier, binding.name, _VERIFIER)
            store.insert_binding(
                tx, replace(binding, key_version=kept.key_version, sealed_verifier=kept.sealed)
            )
        url = self._networks[network].authorize_url(application, state=state, challenge=_challenge(verifier))
        return Started(url, state, binding.expire_time)

    def check_server(self, network: str, server: str) -> str:
        """A server's normal form. Raises INVALID_ARGUMENT (`SERVER_MALFORMED`, `SERVER_NOT_ALLOWED`)."""
        normal = normal_server(server)
        known = self._networks[network].known_servers
        if normal not in (self._servers if known is None else known):
            raise invalid(
                "server",
                "is not a server that accounts can be bound on; ask the platform's operator to add it",
                reason="SERVER_NOT_ALLOWED",
            )
        return normal

    def complete(
        self,
        scope: Scope,
        caller: Principal,
        enterprise: str,
        redirect: Redirect,
        *,
        request_id: str,
        reach: Reach = EVERYTHING,
        also: Callable[[Transaction, Account], None] = _nothing_more,
    ) -> Account:
        """
        Exchange the code, and keep and tell what it gives. What is refused is written to the audit trail.

        `also` is done in the transaction that keeps the account; when it raises, nothing is kept.

        Raises INVALID_ARGUMENT, NOT_FOUND, BindingRefusedError, StageLimitError, or UNAVAILABLE
        (`NETWORK_UNAVAILABLE`).
        """
        if bool(redirect.code) == bool(redirect.error):
            raise invalid("code", "is needed, or error; not both")
        try:
            return self._complete(
                scope, caller, enterprise, redirect, request_id=request_id, reach=reach, also=also
            )
        except (BindingRefusedError, StageLimitError) as refused:
            with self._database.transaction(scope) as tx:
                store.audit(
                    tx,
                    enterprise=enterprise,
                    actor=caller.subject,
                    action="binding.refused",
                    subject=store.binding_name(enterprise, _hash(redirect.state)),
                    reason=refused.reason,
                )
                binding = store.find_binding(tx, enterprise, _hash(redirect.state))
                metrics.binding(tx, binding.network if binding else "", refused.reason)
            raise

    def unbind(self, scope: Scope, caller: Principal, name: str, *, etag: str, reach: Reach) -> Account:
        """
        Let go of an account, forget its token, tell, and ask the network to revoke the token.

        Raises NOT_FOUND, PERMISSION_DENIED (`OUT_OF_REACH`) or ABORTED (`ETAG_MISMATCH`). That the network does not
        revoke is no failure; it is written to the audit trail.
        """
        with self._database.transaction(scope) as tx:
            before = store.lock_account(tx, name)
            reach.check(name, before.path)
            check_etag(etag, before.revision)
            account = before.unbound(tx.now)
            if account is before:
                return account
            store.save_account(tx, account)
            taken = self._take_token(tx, caller, account)
            _audit(tx, caller, "account.unbound", name)
            tx.emit(events.AccountUnbound(account=name), subject=name)
        if taken is not None:
            application, token = taken
            outcome = self._revoke(account, application, token)
            with self._database.transaction(scope) as tx:
                _audit(tx, caller, "token.revoked", name, outcome=outcome)
        return account

    def _complete(
        self,
        scope: Scope,
        caller: Principal,
        enterprise: str,
        redirect: Redirect,
        *,
        request_id: str,
        reach: Reach,
        also: Callable[[Transaction, Account], None],
    ) -> Account:
        with self._database.transaction(scope) as tx:
            store.get_enterprise(tx, enterprise)
            binding = store.find_binding(tx, enterprise, _hash(redirect.state))
            if binding is None or binding.caller != caller.subject or not _is_browser_of(binding, redirect):
                raise binding_refused(
                    "BINDING_STATE_INVALID", "no binding of yours has this state: start a new one"
                )
            if binding.account is not None and request_id and binding.request_id == request_id:
                return store.get_account(tx, binding.account)
            if binding.claim_time is not None:
                raise binding_refused("BINDING_STATE_USED", "the state has been used: start a new binding")
            if binding.expire_time <= tx.now:
                raise binding_refused("BINDING_STATE_EXPIRED", "the state has expired: start a new binding")
            # Before the code is shown to the network, so that the state works once whatever happens after this.
            store.claim_binding(tx, binding, request_id)
            sealed = Sealed(binding.key_version, binding.sealed_verifier)
            verifier = self._vault.open(tx, sealed, binding.name, _VERIFIER)
            application = self._applications.known(tx, binding.network, binding.server, binding.redirect_uri)
            if application is None:
                raise not_found(binding.server)
        _check_issuer(application, redirect.iss)
        if redirect.error:
            raise binding_refused(
                "AUTHORIZATION_DENIED", "the account's holder did not agree: start a new binding"
            )
        authorization = self._exchange(binding, application, redirect.code, verifier)
        with self._database.transaction(scope) as tx:
            account = self._bind(tx, caller, binding, application, authorization, reach=reach)
            also(tx, account)
            return account

    def _exchange(
        self, binding: store.Binding, application: Application, code: str, verifier: SecretStr
    ) -> Authorization:
        try:
            return self._networks[binding.network].exchange(application, code=code, verifier=verifier)
        except NetworkRefusedError as refused:
            raise binding_refused(
                "AUTHORIZATION_REFUSED",
                f"{binding.server} did not accept the code: start a new binding",
                **refused.metadata,
            ) from None

    def _bind(
        self,
        tx: Transaction,
        caller: Principal,
        binding: store.Binding,
        application: Application,
        authorization: Authorization,
        *,
        reach: Reach,
    ) -> Account:
        """
        Keep and tell what the holder agreed to.

        When another enterprise holds the account, or the stage has no room for it, the token is dropped but not
        revoked: a server may give the same token for the same holder and application twice, and then it is the other
        enterprise's.
        """
        profile, token = authorization.profile, authorization.token
        expire_time = tx.now + authorization.life if authorization.life else None
        refreshed = expire_time is not None and authorization.refresh_token is not None
        groups.hold_tree(tx, binding.enterprise)
        store.lock_network_account(tx, binding.server, profile.network_account_id)
        before = store.find_bound(tx, binding.enterprise, binding.server, profile.network_account_id)
        if before is None or before.state is AccountState.REVOKED:
            _check_room(caller, lambda: store.lock_and_count_held(tx, binding.enterprise))
        path = _path(tx, binding, before, reach)
        if before is not None:
            account = before.authorized(
                profile, binding.labels, tx.now, token_expire_time=None if refreshed else expire_time
            )
            account = account.placed(path, tx.now)
        else:
            account = Account(
                name=ACCOUNT_NAME.format(enterprise=binding.enterprise.rpartition("/")[2], account=new_id()),
                network=binding.network,
                server=binding.server,
                profile=profile,
                labels=binding.labels,
                create_time=tx.now,
                update_time=tx.now,
                authorize_time=tx.now,
                token_expire_time=None if refreshed else expire_time,
                path=path,
            )
        store.save_account(tx, account)
        version = keep_token(
            tx,
            self._vault,
            account.name,
            application.client_id,
            token,
            refresh=authorization.refresh_token,
            expire_time=expire_time,
        )
        store.complete_binding(tx, binding, account.name)
        metrics.binding(tx, binding.network)
        _audit(tx, caller, "account.bound", account.name, server=account.server, handle=profile.handle)
        tx.emit(
            events.AccountBound(
                account=account.name,
                network=account.network,
                server=account.server,
                software=profile.software,
                software_version=profile.software_version,
                network_account_id=profile.network_account_id,
                handle=profile.handle,
                display_name=profile.display_name,
                labels=account.labels,
                sealed_token=hand_over(tx, self._publishing_key, account.name, token, actor=caller.subject),
                groups=account.path,
                placement_version=groups.next_placement(tx),
                token_version=version,
            ),
            subject=account.name,
        )
        return account

    # Secrets

    def _application(self, scope: Scope, enterprise: str, network: str, server: str) -> Application:
        """What the server knows us as; makes us known to it first, once for all enterprises."""
        with self._database.transaction(scope) as tx:
            store.get_enterprise(tx, enterprise)
            known = self._applications.known(tx, network, server)
        if known is not None:
            return known
        fresh = self._networks[network].register(server, self._redirect_uri)
        with self._database.transaction(scope) as tx:
            return self._applications.keep(tx, fresh)

    def _take_token(
        self, tx: Transaction, caller: Principal, account: Account
    ) -> tuple[Application, SecretStr] | None:
        """An account's token, forgotten here, and the application that can revoke it."""
        taken = store.take_token(tx, account.name)
        application = (
            self._applications.of_token(tx, account.network, account.server, taken.client_id)
            if taken
            else None
        )
        if taken is None or application is None:
            return None
        sealed = Sealed(taken.key_version, taken.sealed)
        token = self._vault.open_token(tx, sealed, account.name, actor=caller.subject, purpose="revocation")
        return application, token

    def _revoke(self, account: Account, application: Application, token: SecretStr) -> str:
        """`REVOKED`, or the reason why not."""
        try:
            self._networks[account.network].revoke(application, token)
        except ServiceError as failed:
            return failed.reason
        return "REVOKED"


def _place(tx: Transaction, enterprise: str, group: str, reach: Reach) -> str | None:
    """The id of the group that a binding is to put its account into. Raises as `Binder.start`."""
    if group:
        found = groups.get_group(tx, enterprise, group_id(group, enterprise, "group"))
        reach.check(found.name, found.path)
        return found.path[-1]
    if reach.groups is not None:
        raise invalid(
            "group",
            "is required where your rights hold for some groups only: one of them, or one below",
            reason="GROUP_REQUIRED",
        )
    return None


def _path(tx: Transaction, binding: store.Binding, before: Account | None, reach: Reach) -> Path:
    """Where the account will be, which was there `before`. Raises BindingRefusedError."""
    if before is not None and not reach.covers(before.path):
        raise account_out_of_reach()
    if binding.group_id is None:
        return before.path if before is not None else ()
    found = groups.get_groups(tx, binding.enterprise, [binding.group_id])
    if not found:
        raise binding_refused("BINDING_GROUP_GONE", "the group was deleted meanwhile: start a new binding")
    path = found[binding.group_id].path
    if not reach.covers(path):
        raise account_out_of_reach()
    return path


def _check_room(caller: Principal, count: Callable[[], int]) -> None:
    """Raise StageLimitError when the caller's enterprise, which has `count()` accounts, may not bind another one."""
    check_stage_limit(caller, "bound_accounts", count, remedy="unbind an account")


def _audit(tx: Transaction, caller: Principal, action: str, account: str, **detail: str) -> None:
    store.audit(
        tx,
        enterprise=enterprise_of(account) or "",
        actor=caller.subject,
        action=action,
        subject=account,
        **detail,
    )


def _is_browser_of(binding: store.Binding, redirect: Redirect) -> bool:
    """Whether the browser may complete it: any, unless it was started for one."""
    given = _hash(redirect.browser)
    return binding.browser_hash is None or hmac.compare_digest(binding.browser_hash, given)


def _check_issuer(application: Application, iss: str) -> None:
    """
    Raise BindingRefusedError when the redirect is another server's than we sent the holder to (RFC 9207).

    A server that tells no name of its own may still give one in the redirect: then it is its address.
    """
    if not iss and not application.names_issuer:
        return
    same = iss == application.issuer if application.issuer else iss.rstrip("/") == application.server
    if not same:
        raise binding_refused(
            "AUTHORIZATION_ISSUER",
            f"this is not the answer of {application.server}: start a new binding",
            server=application.server,
        )


def _hash(state: str) -> bytes:
    return hashlib.sha256(state.encode()).digest()


def _challenge(verifier: SecretStr) -> str:
    """PKCE's S256 (RFC 7636, 4.2)."""
    digest = hashlib.sha256(verifier.get_secret_value().encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
