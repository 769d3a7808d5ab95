"""Fixtures of the tests of accounts."""

import ipaddress
import os
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numerator.accounts.v1 import (
    accounts_pb2,
    accounts_pb2_grpc,
    apps_pb2,
    apps_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    binding_pb2,
    binding_pb2_grpc,
    documents_pb2,
    documents_pb2_grpc,
    enterprises_pb2,
    enterprises_pb2_grpc,
    grants_pb2,
    grants_pb2_grpc,
    groups_pb2,
    groups_pb2_grpc,
    health_pb2,
    health_pb2_grpc,
    identity_providers_pb2,
    identity_providers_pb2_grpc,
    members_pb2,
    members_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
    vault_pb2,
    vault_pb2_grpc,
    webhooks_pb2,
    webhooks_pb2_grpc,
)
from pydantic import SecretStr

from services.accounts.networks import Network
from services.accounts.networks.weibo import WeiboNetwork
from services.accounts.oidc import Providers
from services.accounts.rpc.accounts import AccountsServicer
from services.accounts.rpc.apps import AppServicer
from services.accounts.rpc.audit import AuditLogServicer
from services.accounts.rpc.binding import BindingServicer
from services.accounts.rpc.documents import DocumentServicer
from services.accounts.rpc.enterprises import EnterpriseServicer
from services.accounts.rpc.grants import GrantServicer
from services.accounts.rpc.groups import GroupServicer
from services.accounts.rpc.health import HealthServicer
from services.accounts.rpc.identity_providers import IdentityProviderServicer
from services.accounts.rpc.members import MemberServicer
from services.accounts.rpc.sessions import SessionServicer
from services.accounts.rpc.vault import VaultServicer
from services.accounts.rpc.webhooks import WebhookServicer
from services.accounts.tests.world import (
    NETWORK_SECRET,
    OPERATOR_SECRET,
    OTHER_SERVER,
    REDIRECT_URI,
    REVIEWER_SECRET,
    SERVER,
    FakeNetwork,
    World,
)
from services.accounts.usecases.binding import Binder
from services.accounts.usecases.clients import platform_clients
from services.accounts.usecases.identity_providers import OidcLogins
from services.accounts.usecases.invitations import Inviter
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import MasterKey, MasterKeys
from services.chassis.clock import FixedClock
from services.chassis.outgoing_rules import OutgoingRules
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import Offer, serving

LOOPBACK = OutgoingRules(
    private_networks=(ipaddress.IPv4Network("127.0.0.1/32"),), plain_http=True, any_port=True
)
"""Where identity providers of tests may be. All else on this machine is as forbidden as it always is."""


@pytest.fixture
def serve(
    make_database: Callable[..., TemporaryDatabase], clock: FixedClock
) -> Iterator[Callable[..., World]]:
    """Serves accounts, by default on a network that is made up; takes the options of the server, too."""
    opened = []

    def start(
        network: Network | None = None, server: str = SERVER, weibo: Network | None = None, **options: object
    ) -> World:
        database = make_database("accounts", clock=clock)
        fake, publishing_key = FakeNetwork(), X25519PrivateKey.generate()
        kms = MasterKeys(MasterKey(os.urandom(32)))
        vault = Vault(kms)
        binder = Binder(
            database,
            {"mastodon": network or fake, "weibo": weibo or WeiboNetwork({})},
            servers=frozenset({server, OTHER_SERVER}),
            redirect_uri=REDIRECT_URI,
            vault=vault,
            publishing_key=publishing_key.public_key(),
        )
        staff = {"operator": SecretStr(OPERATOR_SECRET), "reviewer": SecretStr(REVIEWER_SECRET)}
        platform = platform_clients(operators=staff, network=SecretStr(NETWORK_SECRET))
        offers = (
            Offer(
                health_pb2_grpc.add_HealthServiceServicer_to_server,
                HealthServicer(database),
                health_pb2.DESCRIPTOR.services_by_name["HealthService"],
            ),
            Offer(
                audit_pb2_grpc.add_AuditLogServiceServicer_to_server,
                AuditLogServicer(database),
                audit_pb2.DESCRIPTOR.services_by_name["AuditLogService"],
            ),
            Offer(
                vault_pb2_grpc.add_VaultServiceServicer_to_server,
                VaultServicer(database),
                vault_pb2.DESCRIPTOR.services_by_name["VaultService"],
            ),
            Offer(
                groups_pb2_grpc.add_GroupServiceServicer_to_server,
                GroupServicer(database),
                groups_pb2.DESCRIPTOR.services_by_name["GroupService"],
            ),
            Offer(
                grants_pb2_grpc.add_GrantServiceServicer_to_server,
                GrantServicer(database),
                grants_pb2.DESCRIPTOR.services_by_name["GrantService"],
            ),
            Offer(
                accounts_pb2_grpc.add_AccountsServiceServicer_to_server,
                AccountsServicer(database, binder, platform, clock),
                accounts_pb2.DESCRIPTOR.services_by_name["AccountsService"],
            ),
            Offer(
                apps_pb2_grpc.add_AppServiceServicer_to_server,
                AppServicer(database),
                apps_pb2.DESCRIPTOR.services_by_name["AppService"],
            ),
            Offer(
                binding_pb2_grpc.add_BindingServiceServicer_to_server,
                BindingServicer(database, Inviter(database, binder, redirect_uri=REDIRECT_URI)),
                binding_pb2.DESCRIPTOR.services_by_name["BindingService"],
            ),
            Offer(
                sessions_pb2_grpc.add_SessionServiceServicer_to_server,
                SessionServicer(database, vault),
                sessions_pb2.DESCRIPTOR.services_by_name["SessionService"],
            ),
            Offer(
                enterprises_pb2_grpc.add_EnterpriseServiceServicer_to_server,
                EnterpriseServicer(database),
                enterprises_pb2.DESCRIPTOR.services_by_name["EnterpriseService"],
            ),
            Offer(
                documents_pb2_grpc.add_DocumentServiceServicer_to_server,
                DocumentServicer(database, vault),
                documents_pb2.DESCRIPTOR.services_by_name["DocumentService"],
            ),
            Offer(
                members_pb2_grpc.add_MemberServiceServicer_to_server,
                MemberServicer(database, vault),
                members_pb2.DESCRIPTOR.services_by_name["MemberService"],
            ),
            Offer(
                identity_providers_pb2_grpc.add_IdentityProviderServiceServicer_to_server,
                IdentityProviderServicer(
                    database,
                    vault,
                    OidcLogins(database, vault, Providers(LOOPBACK, clock), public_url=REDIRECT_URI),
                    LOOPBACK,
                ),
                identity_providers_pb2.DESCRIPTOR.services_by_name["IdentityProviderService"],
            ),
            Offer(
                webhooks_pb2_grpc.add_WebhookServiceServicer_to_server,
                WebhookServicer(database, Vault(kms), OutgoingRules()),
                webhooks_pb2.DESCRIPTOR.services_by_name["WebhookService"],
            ),
        )
        context = serving(*offers, **options)
        opened.append(context)
        return World(database, clock, fake, publishing_key, context.__enter__(), kms)

    yield start
    for context in opened:
        context.__exit__(None, None, None)


@pytest.fixture
def world(serve: Callable[..., World]) -> World:
    """The service as it runs, but for its network, which is made up."""
    return serve()
