"""The api process: what it is made of."""

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
from services.accounts.settings import Settings
from services.accounts.usecases.binding import Binder
from services.accounts.usecases.clients import platform_clients
from services.accounts.usecases.identity_providers import OidcLogins
from services.accounts.usecases.invitations import Inviter
from services.accounts.usecases.secrets import Vault
from services.accounts.wiring import open_networks
from services.chassis.clock import SystemClock
from services.chassis.database import Database
from services.chassis.rpc.server import Server
from services.chassis.sealing import load_public_key
from services.chassis.telemetry import Telemetry


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """Serve gRPC until SIGTERM; returns the exit code."""
    database = Database(settings.database_url.get_secret_value(), schema="accounts", max_size=16)
    vault = Vault(settings.open_master_keys())
    binder = Binder(
        database,
        open_networks(settings),
        servers=settings.network_servers,
        redirect_uri=settings.binding_redirect_uri,
        vault=vault,
        publishing_key=load_public_key(settings.publishing_public_key),
    )
    staff = {"operator": settings.operator_secret, **settings.operators}
    platform = platform_clients(operators=staff, network=settings.network_secret)
    servicer = AccountsServicer(database, binder, platform, SystemClock())
    service = accounts_pb2.DESCRIPTOR.services_by_name["AccountsService"]
    apps = apps_pb2.DESCRIPTOR.services_by_name["AppService"]
    server = Server(settings, telemetry, needs={"database": database.check})
    server.add(accounts_pb2_grpc.add_AccountsServiceServicer_to_server, servicer, service)
    server.add(apps_pb2_grpc.add_AppServiceServicer_to_server, AppServicer(database), apps)
    sessions = sessions_pb2.DESCRIPTOR.services_by_name["SessionService"]
    server.add(
        sessions_pb2_grpc.add_SessionServiceServicer_to_server, SessionServicer(database, vault), sessions
    )
    enterprises = enterprises_pb2.DESCRIPTOR.services_by_name["EnterpriseService"]
    server.add(
        enterprises_pb2_grpc.add_EnterpriseServiceServicer_to_server,
        EnterpriseServicer(database),
        enterprises,
    )
    documents = documents_pb2.DESCRIPTOR.services_by_name["DocumentService"]
    server.add(
        documents_pb2_grpc.add_DocumentServiceServicer_to_server,
        DocumentServicer(database, vault),
        documents,
    )
    members = members_pb2.DESCRIPTOR.services_by_name["MemberService"]
    server.add(members_pb2_grpc.add_MemberServiceServicer_to_server, MemberServicer(database, vault), members)
    inviter = Inviter(database, binder, redirect_uri=settings.binding_redirect_uri)
    binding = binding_pb2.DESCRIPTOR.services_by_name["BindingService"]
    server.add(
        binding_pb2_grpc.add_BindingServiceServicer_to_server, BindingServicer(database, inviter), binding
    )
    groups = groups_pb2.DESCRIPTOR.services_by_name["GroupService"]
    server.add(groups_pb2_grpc.add_GroupServiceServicer_to_server, GroupServicer(database), groups)
    grants = grants_pb2.DESCRIPTOR.services_by_name["GrantService"]
    server.add(grants_pb2_grpc.add_GrantServiceServicer_to_server, GrantServicer(database), grants)
    health = health_pb2.DESCRIPTOR.services_by_name["HealthService"]
    server.add(health_pb2_grpc.add_HealthServiceServicer_to_server, HealthServicer(database), health)
    trail = audit_pb2.DESCRIPTOR.services_by_name["AuditLogService"]
    server.add(audit_pb2_grpc.add_AuditLogServiceServicer_to_server, AuditLogServicer(database), trail)
    keys = vault_pb2.DESCRIPTOR.services_by_name["VaultService"]
    server.add(vault_pb2_grpc.add_VaultServiceServicer_to_server, VaultServicer(database), keys)
    webhooks = webhooks_pb2.DESCRIPTOR.services_by_name["WebhookService"]
    server.add(
        webhooks_pb2_grpc.add_WebhookServiceServicer_to_server,
        WebhookServicer(database, vault, settings.webhook_rules),
        webhooks,
    )
    providers = identity_providers_pb2.DESCRIPTOR.services_by_name["IdentityProviderService"]
    logins = OidcLogins(
        database,
        vault,
        Providers(settings.oidc_rules, SystemClock()),
        public_url=settings.binding_redirect_uri,
    )
    server.add(
        identity_providers_pb2_grpc.add_IdentityProviderServiceServicer_to_server,
        IdentityProviderServicer(database, vault, logins, settings.oidc_rules),
        providers,
    )
    return server.serve()
