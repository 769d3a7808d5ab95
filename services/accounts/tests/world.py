"""What the tests of accounts share: the service as it runs, on a network that is made up."""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import grpc
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf import any_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import accounts_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.accounts.model import Profile
from services.accounts.networks import Application, Authorization, Renewal, network_refused
from services.accounts.vault import Kms
from services.chassis import events
from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM
from services.chassis.principal import Principal
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import RunningServer, anonymous, member, operator

SERVER = "https://social.example"
OTHER_SERVER = "https://village.example"
REDIRECT_URI = "https://console.example/bound"
PASSWORD = "correct horse battery"
OPERATOR_SECRET = "operator-secret-of-the-tests"
REVIEWER_SECRET = "reviewer-secret-of-the-tests"
NETWORK_SECRET = "network-secret-of-the-tests"


class FakeNetwork:
    """A network with one account per handle, which keeps to OAuth2: codes work once, and only with their verifier."""

    def __init__(self, token_life: timedelta | None = None) -> None:
        self.registered: list[str] = []
        self.revoked: list[str] = []
        self.failure: Exception | None = None
        """Raised by the next call that would reach the server."""
        self.token_life = token_life
        """How long tokens live; those that end come with refresh tokens, which work once."""
        self.refreshed: list[str] = []
        """The refresh tokens that were shown, in their order."""
        self._refresh_tokens: set[str] = set()
        self._numbers = count(1)
        self._codes: dict[str, tuple[str, str]] = {}

    @property
    def known_servers(self) -> None:
        return None

    def register(self, server: str, redirect_uri: str) -> Application:
        self._fail()
        self.registered.append(server)
        number = next(self._numbers)
        return Application(
            server,
            redirect_uri,
            f"application-{number}",
            SecretStr(f"canary-application-secret-{number}"),
            f"{server}/authorize",
            f"{server}/token",
            f"{server}/revoke",
        )

    def authorize_url(self, application: Application, *, state: str, challenge: str) -> str:
        return f"{application.authorize_endpoint}?{urlencode({'state': state, 'code_challenge': challenge})}"

    def agree(self, authorization_url: str, handle: str) -> tuple[str, str]:
        """What the holder of an account does; the state and the code that the redirect carries."""
        query = parse_qs(urlsplit(authorization_url).query)
        code = f"code-{next(self._numbers)}"
        self._codes[code] = (handle, query["code_challenge"][0])
        return query["state"][0], code

    def exchange(self, application: Application, *, code: str, verifier: SecretStr) -> Authorization:
        self._fail()
        handle, challenge = self._codes.pop(code, ("", ""))
        digest = hashlib.sha256(verifier.get_secret_value().encode()).digest()
        if not handle or challenge != urlsafe_b64encode(digest).rstrip(b"=").decode():
            raise network_refused(application.server, 400)
        token = SecretStr(f"canary-token-{handle}-{next(self._numbers)}")
        profile = Profile(f"id-of-{handle}", handle, handle.title(), "mastodon", "4.5.0")
        return Authorization(token, profile, self.token_life, self._new_refresh_token())

    def refresh(self, application: Application, refresh_token: SecretStr) -> Renewal:
        shown = refresh_token.get_secret_value()
        self.refreshed.append(shown)
        self._fail()
        if shown not in self._refresh_tokens:
            raise network_refused(application.server, 400)
        self._refresh_tokens.discard(shown)
        token = SecretStr(f"canary-token-refreshed-{next(self._numbers)}")
        return Renewal(token, self.token_life, self._new_refresh_token())

    def _new_refresh_token(self) -> SecretStr | None:
        if self.token_life is None:
            return None
        token = f"canary-refresh-{next(self._numbers)}"
        self._refresh_tokens.add(token)
        return SecretStr(token)

    def revoke(self, application: Application, token: SecretStr) -> None:
        self._fail()
        self.revoked.append(token.get_secret_value())

    def _fail(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


@dataclass(frozen=True)
class Company:
    """An enterprise and its owner."""

    name: str
    owner: Principal

    def limited(self, bound_accounts: int) -> "Company":
        """The same company, in a stage that allows so many accounts."""
        return replace(self, owner=replace(self.owner, limits={"bound_accounts": bound_accounts}))


@dataclass
class World:
    """The service, served, and all around it."""

    database: TemporaryDatabase
    clock: FixedClock
    network: FakeNetwork
    publishing_key: X25519PrivateKey
    running: RunningServer
    kms: Kms
    _stubs: dict[Principal, pb_grpc.AccountsServiceStub] = field(default_factory=dict)

    def as_(self, principal: Principal) -> pb_grpc.AccountsServiceStub:
        """The service, as somebody sees it."""
        if principal not in self._stubs:
            self._stubs[principal] = pb_grpc.AccountsServiceStub(self.running.as_(principal))
        return self._stubs[principal]

    def register(self, name: str = "Tianshan Motors", email: str = "owner@tianshan.example") -> Company:
        """A company that has registered."""
        created = self.as_(anonymous()).RegisterEnterprise(
            pb.RegisterEnterpriseRequest(
                display_name=name,
                industry="automotive",
                region="xinjiang",
                owner_email=email,
                owner_password=PASSWORD,
            )
        )
        (owner,) = self.as_(operator()).ListMembers(pb.ListMembersRequest(parent=created.name)).members
        return Company(created.name, member(created.name, ["OWNER"], owner.name))

    def start(self, company: Company, **fields: Any) -> pb.StartBindingResponse:
        """A binding that has begun."""
        wanted = {"network": "mastodon", "server": SERVER} | fields
        return self.as_(company.owner).StartBinding(pb.StartBindingRequest(parent=company.name, **wanted))

    def complete(self, company: Company, state: str, code: str, **fields: Any) -> pb.Account:
        """Complete a binding, as its owner."""
        return self.as_(company.owner).CompleteBinding(
            pb.CompleteBindingRequest(parent=company.name, state=state, code=code, **fields)
        )

    def bind(self, company: Company, handle: str, **fields: Any) -> pb.Account:
        """An account that is bound."""
        started = self.start(company, **fields)
        return self.complete(company, *self.network.agree(started.authorization_url, handle))

    def rows(self, table: str, enterprise: str = "") -> list[Mapping[str, Any]]:
        """The rows of a table, of one enterprise or of all."""
        with self.database.transaction(PLATFORM) as tx:
            found = tx.execute(f"select * from {table}").fetchall()
        return [row for row in found if not enterprise or row["enterprise"] == enterprise]

    def told(self, kind: type[Any]) -> list[Any]:
        """The events of a class that were told, oldest first."""
        rows = sorted(self.rows("outbox"), key=lambda row: row["sequence"])
        return [
            events.decode(row["content_type"], bytes(row["body"]), kind)
            for row in rows
            if row["type"] == events.event_type(kind)
        ]

    def audited(self, action: str) -> list[Mapping[str, Any]]:
        """What the audit trail says of an action."""
        return [row for row in self.rows("audit") if row["action"] == action]


def reason_of(error: grpc.RpcError) -> str:
    """The reason that a failed call carries."""
    for detail in _details(error):
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    raise AssertionError("the error carries no ErrorInfo")


def field_reasons_of(error: grpc.RpcError) -> dict[str, str]:
    """The wrong fields of a request, with the reasons."""
    for detail in _details(error):
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return {each.field: each.reason for each in bad.field_violations}
    raise AssertionError("the error carries no BadRequest")


def _details(error: grpc.RpcError) -> list[any_pb2.Any]:
    status = rpc_status.from_call(error)
    assert status is not None
    return list(status.details)
