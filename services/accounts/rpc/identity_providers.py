"""Serves `identity_providers.proto`."""

import grpc
from google.protobuf.empty_pb2 import Empty
from numerator.accounts.v1 import identity_providers_pb2 as pb
from numerator.accounts.v1 import identity_providers_pb2_grpc as pb_grpc
from numerator.accounts.v1 import sessions_pb2
from pydantic import SecretStr

from services.accounts import metrics
from services.accounts.model import ENTERPRISE_NAME, MEMBER_NAME, etag_of
from services.accounts.model.identity_providers import PROVIDER_NAME, IdentityProvider, normal_domains
from services.accounts.model.sessions import Device
from services.accounts.rpc.sessions import opened
from services.accounts.store import identity_providers as rows
from services.accounts.usecases import identity_providers
from services.accounts.usecases.identity_providers import LoginRedirect, OidcLogins, Settings
from services.accounts.usecases.secrets import Vault
from services.chassis.database import Database
from services.chassis.names import enterprise_of
from services.chassis.outgoing_rules import OutgoingRules
from services.chassis.rpc.call import current_call
from services.chassis.timestamps import stamp

_ALL = ["*"]


class IdentityProviderServicer(pb_grpc.IdentityProviderServiceServicer):
    """Serves `numerator.accounts.v1.IdentityProviderService`."""

    def __init__(self, database: Database, vault: Vault, logins: OidcLogins, rules: OutgoingRules) -> None:
        self._database = database
        self._vault = vault
        self._logins = logins
        self._rules = rules

    def GetIdentityProvider(
        self, request: pb.GetIdentityProviderRequest, context: grpc.ServicerContext
    ) -> pb.IdentityProvider:
        PROVIDER_NAME.parse(request.name)
        with self._database.transaction(current_call().scope) as tx:
            return self._shown(rows.get_provider(tx, request.name))

    def UpdateIdentityProvider(
        self, request: pb.UpdateIdentityProviderRequest, context: grpc.ServicerContext
    ) -> pb.IdentityProvider:
        call = current_call()
        PROVIDER_NAME.parse(request.name)
        enterprise = enterprise_of(request.name) or ""
        given = _settings(request)
        if given.issuer is not None:
            identity_providers.check_issuer(self._rules, given.issuer)
            self._logins.look(given.issuer)

        def update() -> pb.IdentityProvider:
            return self._shown(
                identity_providers.update_provider(
                    tx, self._vault, enterprise, given, etag=request.etag, caller=call.principal
                )
            )

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, update)

    def DeleteIdentityProvider(
        self, request: pb.DeleteIdentityProviderRequest, context: grpc.ServicerContext
    ) -> Empty:
        call = current_call()
        PROVIDER_NAME.parse(request.name)

        def delete() -> Empty:
            identity_providers.delete_provider(tx, request.name, etag=request.etag, caller=call.principal)
            return Empty()

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, delete)

    def UnlinkMember(self, request: pb.UnlinkMemberRequest, context: grpc.ServicerContext) -> Empty:
        call = current_call()
        MEMBER_NAME.parse(request.name)
        with self._database.transaction(call.scope) as tx:
            identity_providers.unlink_member(tx, request.name, caller=call.principal)
        return Empty()

    def StartLogin(
        self, request: pb.StartLoginRequest, context: grpc.ServicerContext
    ) -> pb.StartLoginResponse:
        ENTERPRISE_NAME.parse(request.parent, "parent")
        started = self._logins.start(request.parent, SecretStr(request.browser))
        return pb.StartLoginResponse(
            authorization_url=started.authorization_url, expire_time=stamp(started.expire_time)
        )

    def CompleteLogin(
        self, request: pb.CompleteLoginRequest, context: grpc.ServicerContext
    ) -> sessions_pb2.OpenedSession:
        ENTERPRISE_NAME.parse(request.parent, "parent")
        redirect = LoginRedirect(request.state, request.code, request.error, request.iss, request.browser)
        with metrics.login("MEMBER"):
            return opened(
                self._logins.complete(
                    request.parent, redirect, Device.of(request.address, request.user_agent)
                )
            )

    def _shown(self, model: IdentityProvider) -> pb.IdentityProvider:
        return pb.IdentityProvider(
            name=model.name,
            issuer=model.issuer,
            client_id=model.client_id,
            required=model.required,
            email_domains=model.email_domains,
            redirect_uri=self._logins.redirect_uri(model.enterprise),
            create_time=stamp(model.create_time),
            update_time=stamp(model.update_time),
            etag=etag_of(model.revision),
        )


def _settings(request: pb.UpdateIdentityProviderRequest) -> Settings:
    return Settings(
        issuer=request.issuer or None,
        client_id=request.client_id or None,
        client_secret=SecretStr(request.client_secret) if request.client_secret else None,
        required=request.required if request.HasField("required") else None,
        email_domains=_domains(list(request.email_domains)),
    )


def _domains(wanted: list[str]) -> tuple[str, ...] | None:
    """None: they stay; none: all."""
    if wanted == _ALL:
        return ()
    return normal_domains(wanted) if wanted else None
