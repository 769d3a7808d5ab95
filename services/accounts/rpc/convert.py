"""Proto to model and back."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import apps_pb2, health_pb2
from numerator.options.v1 import options_pb2

from services.accounts.model import (
    Account,
    AccountState,
    Client,
    Enterprise,
    Identity,
    Member,
    Role,
    Verification,
    etag_of,
)
from services.accounts.model.clients import ClientRights
from services.accounts.model.groups import group_id, group_name
from services.accounts.model.health import Health
from services.accounts.model.revocations import Revocation


def enterprise(model: Enterprise) -> pb.Enterprise:
    """An enterprise, as callers see it."""
    return pb.Enterprise(
        name=model.name,
        display_name=model.display_name,
        industry=model.industry,
        region=model.region,
        verification=pb.Enterprise.Verification.Value(model.verification),
        verification_note=model.verification_note,
        create_time=time(model.create_time),
        update_time=time(model.update_time),
        etag=etag_of(model.revision),
        second_factor_required=model.second_factor_required,
        tier=model.tier,
        attributes=model.attributes,
    )


def verification(value: pb.Enterprise.Verification.ValueType) -> Verification | None:
    """The verification that a list is filtered by; None for all."""
    return Verification(pb.Enterprise.Verification.Name(value)) if value else None


def member(model: Member) -> pb.Member:
    """A member, without anything of the password."""
    return pb.Member(
        name=model.name,
        email=model.email,
        display_name=model.display_name,
        role=options_pb2.Role.Value(model.role),
        create_time=time(model.create_time),
        totp_enabled=model.totp_enabled,
        etag=etag_of(model.revision),
    )


def role(value: options_pb2.Role.ValueType) -> Role:
    """A role that the contract's validation has found to be one."""
    return Role(options_pb2.Role.Name(value))


def client(model: Client) -> pb.Client:
    """A client, without its secret."""
    return pb.Client(
        name=model.name,
        display_name=model.display_name,
        scopes=sorted(model.rights.scopes),
        grants=[
            pb.Client.Grant(
                scope=scope, groups=sorted(group_name(model.name, [group]) or "" for group in groups)
            )
            for scope, groups in sorted(model.rights.grants.items())
        ],
        create_time=time(model.create_time),
        last_use_time=time(model.last_use_time) if model.last_use_time else None,
        old_secret_end_time=time(model.old_secret_end_time) if model.old_secret_end_time else None,
        old_secret_use_time=time(model.old_secret_use_time) if model.old_secret_use_time else None,
        etag=etag_of(model.revision),
    )


def client_rights(
    asked: pb.CreateClientRequest | apps_pb2.UpdateClientRequest.Rights, enterprise: str
) -> ClientRights:
    """
    What a client is to be able to do in an enterprise.

    Raises INVALID_ARGUMENT for what is no group's name, NOT_FOUND for a group of another enterprise.
    """
    grants: dict[str, frozenset[str]] = {}
    for place, grant in enumerate(asked.grants):
        groups = {group_id(group, enterprise, f"grants[{place}].groups") for group in grant.groups}
        grants[grant.scope] = grants.get(grant.scope, frozenset()) | groups
    return ClientRights(frozenset(asked.scopes), grants)


def identity(model: Identity) -> pb.Identity:
    """Who a caller is."""
    return pb.Identity(
        kind=options_pb2.Caller.Value(model.kind),
        subject=model.subject,
        enterprise=model.enterprise or "",
        roles=[options_pb2.Role.Value(each) for each in sorted(model.roles)],
        scopes=sorted(model.scopes),
        grants=[
            pb.Identity.Grant(right=right, groups=sorted(groups))
            for right, groups in sorted(model.grants.items())
        ],
        session=model.session,
        authenticate_time=time(model.authenticate_time) if model.authenticate_time else None,
    )


def revocation(model: Revocation) -> apps_pb2.Revocation:
    """What gateways refuse."""
    return apps_pb2.Revocation(
        subject=model.subject,
        revoke_time=time(model.revoke_time),
        expire_time=time(model.expire_time),
        sequence=model.sequence,
    )


def account(model: Account) -> pb.Account:
    """An account, without its token."""
    return pb.Account(
        name=model.name,
        network=model.network,
        server=model.server,
        software=model.profile.software,
        software_version=model.profile.software_version,
        network_account_id=model.profile.network_account_id,
        handle=model.profile.handle,
        display_name=model.profile.display_name,
        labels=model.labels,
        state=pb.Account.State.Value(model.state),
        create_time=time(model.create_time),
        update_time=time(model.update_time),
        authorize_time=time(model.authorize_time),
        etag=etag_of(model.revision),
        group=model.group or "",
        token_expire_time=time(model.token_expire_time) if model.token_expire_time else None,
    )


def account_state(value: pb.Account.State.ValueType) -> AccountState | None:
    """The state that a list is filtered by; None for all."""
    return AccountState(pb.Account.State.Name(value)) if value else None


def account_health(value: health_pb2.AccountHealth.Health.ValueType) -> Health | None:
    """The health that a list is filtered by; None for all."""
    return Health(health_pb2.AccountHealth.Health.Name(value)) if value else None


def time(moment: datetime) -> Timestamp:
    """A moment."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
