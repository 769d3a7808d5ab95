"""Serves `accounts.proto`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import accounts_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.accounts import metrics, store
from services.accounts.credentials import hash_password
from services.accounts.model import (
    ENTERPRISE_NAME,
    MEMBER_NAME,
    Account,
    Client,
    Enterprise,
    Member,
    Role,
    VerificationStep,
    check_password,
    normal_email,
)
from services.accounts.rpc import after, convert, page, without
from services.accounts.store import groups as group_rows
from services.accounts.usecases import clients, enterprises, groups, members
from services.accounts.usecases.binding import Binder, Redirect
from services.chassis.clock import Clock
from services.chassis.database import Database, Tenant, Transaction
from services.chassis.ids import deterministic_id, new_id
from services.chassis.paging import page_size
from services.chassis.rpc.call import current_call

R = TypeVar("R", Enterprise, Member, Client, Account)
_Step = (
    pb.RequestVerificationRequest
    | pb.VerifyEnterpriseRequest
    | pb.RejectEnterpriseRequest
    | pb.RevokeVerificationRequest
)


class AccountsServicer(pb_grpc.AccountsServiceServicer):
    """Serves `numerator.accounts.v1.AccountsService`."""

    def __init__(
        self,
        database: Database,
        binder: Binder,
        platform_clients: Mapping[str, clients.KnownClient],
        clock: Clock,
    ) -> None:
        self._database = database
        self._binder = binder
        self._platform_clients = platform_clients
        self._clock = clock

    # Enterprises

    def RegisterEnterprise(
        self, request: pb.RegisterEnterpriseRequest, context: grpc.ServicerContext
    ) -> pb.Enterprise:
        check_password(request.owner_password, "owner_password")
        email = normal_email(request.owner_email)
        # A repetition must come to the same tenant, and another person's request with the same id to another.
        new = deterministic_id("enterprise", email, request.request_id) if request.request_id else new_id()
        now = self._clock.now()
        name = ENTERPRISE_NAME.format(enterprise=new)
        enterprise = Enterprise(
            name, request.display_name, request.industry, request.region, create_time=now, update_time=now
        )
        owner = Member(
            MEMBER_NAME.format(enterprise=new, member=new_id()), email, email, Role.OWNER, create_time=now
        )
        password_hash = hash_password(SecretStr(request.owner_password))
        with self._database.transaction(Tenant(name)) as tx:
            return tx.once(
                without(request, "owner_password"),
                lambda: convert.enterprise(
                    enterprises.register_enterprise(tx, enterprise, owner, password_hash)
                ),
            )

    def GetEnterprise(self, request: pb.GetEnterpriseRequest, context: grpc.ServicerContext) -> pb.Enterprise:
        with self._database.transaction(current_call().scope) as tx:
            return convert.enterprise(store.get_enterprise(tx, request.name))

    def ListEnterprises(
        self, request: pb.ListEnterprisesRequest, context: grpc.ServicerContext
    ) -> pb.ListEnterprisesResponse:
        size = page_size(request.page_size)
        with self._database.transaction(current_call().scope) as tx:
            found = store.list_enterprises(
                tx,
                verification=convert.verification(request.verification),
                after=after(request),
                limit=size + 1,
            )
        items, token = page(found, size, request)
        return pb.ListEnterprisesResponse(enterprises=map(convert.enterprise, items), next_page_token=token)

    def RequestVerification(
        self, request: pb.RequestVerificationRequest, context: grpc.ServicerContext
    ) -> pb.Enterprise:
        return self._verification(request, VerificationStep.REQUEST)

    def VerifyEnterprise(
        self, request: pb.VerifyEnterpriseRequest, context: grpc.ServicerContext
    ) -> pb.Enterprise:
        return self._verification(request, VerificationStep.VERIFY, rests_on=request.documents)

    def RejectEnterprise(
        self, request: pb.RejectEnterpriseRequest, context: grpc.ServicerContext
    ) -> pb.Enterprise:
        return self._verification(request, VerificationStep.REJECT, rests_on=request.documents)

    def RevokeVerification(
        self, request: pb.RevokeVerificationRequest, context: grpc.ServicerContext
    ) -> pb.Enterprise:
        return self._verification(request, VerificationStep.REVOKE)

    def _verification(
        self, request: _Step, step: VerificationStep, rests_on: Sequence[str] = ()
    ) -> pb.Enterprise:
        call = current_call()

        def advance() -> pb.Enterprise:
            return convert.enterprise(
                enterprises.advance_verification(
                    tx,
                    request.name,
                    step,
                    actor=call.principal.subject,
                    note=request.note,
                    etag=request.etag,
                    rests_on=rests_on,
                )
            )

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, advance)

    # Members and clients

    def CreateMember(self, request: pb.CreateMemberRequest, context: grpc.ServicerContext) -> pb.Member:
        call = current_call()
        check_password(request.password, "password")
        member = Member(
            MEMBER_NAME.format(**ENTERPRISE_NAME.parse(request.parent, "parent"), member=new_id()),
            normal_email(request.email),
            request.display_name,
            convert.role(request.role),
            create_time=self._clock.now(),
        )
        password_hash = hash_password(SecretStr(request.password))
        with self._database.transaction(call.scope) as tx:
            return tx.once(
                without(request, "password"),
                lambda: convert.member(
                    members.create_member(tx, member, password_hash, caller=call.principal)
                ),
            )

    def ListMembers(
        self, request: pb.ListMembersRequest, context: grpc.ServicerContext
    ) -> pb.ListMembersResponse:
        found, token = self._list(request, store.list_members)
        return pb.ListMembersResponse(members=map(convert.member, found), next_page_token=token)

    def CreateClient(self, request: pb.CreateClientRequest, context: grpc.ServicerContext) -> pb.Client:
        call = current_call()
        secret = ""

        def create() -> pb.Client:
            nonlocal secret
            client, made = clients.create_client(
                tx,
                request.parent,
                display_name=request.display_name,
                rights=convert.client_rights(request, request.parent),
                caller=call.principal,
            )
            secret = made.get_secret_value()
            return convert.client(client)

        with self._database.transaction(call.scope) as tx:
            reply = tx.once(request, create)
        # Only now: what is kept for a repetition must not hold the secret.
        reply.secret = secret
        return reply

    def ListClients(
        self, request: pb.ListClientsRequest, context: grpc.ServicerContext
    ) -> pb.ListClientsResponse:
        found, token = self._list(request, store.list_clients)
        return pb.ListClientsResponse(clients=map(convert.client, found), next_page_token=token)

    def DeleteClient(self, request: pb.DeleteClientRequest, context: grpc.ServicerContext) -> Empty:
        call = current_call()

        def delete() -> Empty:
            clients.delete_client(tx, request.name, etag=request.etag, caller=call.principal)
            return Empty()

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, delete)

    def AuthenticateClient(
        self, request: pb.AuthenticateClientRequest, context: grpc.ServicerContext
    ) -> pb.Identity:
        with metrics.login("CLIENT"), self._database.transaction(current_call().scope) as tx:
            identity = clients.authenticate_client(
                tx, self._platform_clients, request.client_id, SecretStr(request.client_secret)
            )
        return convert.identity(identity)

    # Accounts

    def StartBinding(
        self, request: pb.StartBindingRequest, context: grpc.ServicerContext
    ) -> pb.StartBindingResponse:
        call = current_call()
        started = self._binder.start(
            call.scope,
            call.principal,
            request.parent,
            network=request.network,
            server=request.server,
            labels=tuple(dict.fromkeys(request.labels)),
            group=request.group,
            reach=call.reach,
        )
        return pb.StartBindingResponse(
            authorization_url=started.authorization_url,
            state=started.state,
            expire_time=convert.time(started.expire_time),
        )

    def CompleteBinding(
        self, request: pb.CompleteBindingRequest, context: grpc.ServicerContext
    ) -> pb.Account:
        call = current_call()
        return convert.account(
            self._binder.complete(
                call.scope,
                call.principal,
                request.parent,
                Redirect(request.state, request.code, request.error, request.iss),
                request_id=request.request_id,
                reach=call.reach,
            )
        )

    def GetAccount(self, request: pb.GetAccountRequest, context: grpc.ServicerContext) -> pb.Account:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            account = store.get_account(tx, request.name)
        call.reach.check(account.name, account.path)
        return convert.account(account)

    def ListAccounts(
        self, request: pb.ListAccountsRequest, context: grpc.ServicerContext
    ) -> pb.ListAccountsResponse:
        def matching(tx: Transaction, enterprise: str, *, after: store.After, limit: int) -> list[Account]:
            return store.list_accounts(
                tx,
                enterprise,
                within=group_rows.find_id(tx, enterprise, request.group, "group"),
                reach=current_call().reach.groups,
                label=request.label or None,
                network=request.network or None,
                state=convert.account_state(request.state),
                health=convert.account_health(request.health),
                after=after,
                limit=limit,
            )

        found, token = self._list(request, matching)
        return pb.ListAccountsResponse(accounts=map(convert.account, found), next_page_token=token)

    def UpdateAccount(self, request: pb.UpdateAccountRequest, context: grpc.ServicerContext) -> pb.Account:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return tx.once(
                request,
                lambda: convert.account(
                    groups.update_account(
                        tx,
                        request.name,
                        labels=request.labels,
                        etag=request.etag,
                        actor=call.principal.subject,
                        reach=call.reach,
                    )
                ),
            )

    def UnbindAccount(self, request: pb.UnbindAccountRequest, context: grpc.ServicerContext) -> pb.Account:
        call = current_call()
        return convert.account(
            self._binder.unbind(call.scope, call.principal, request.name, etag=request.etag, reach=call.reach)
        )

    def _list(
        self,
        request: pb.ListMembersRequest | pb.ListClientsRequest | pb.ListAccountsRequest,
        find: Callable[..., list[R]],
    ) -> tuple[Sequence[R], str]:
        """A page of what an enterprise has, and the token of the next."""
        size = page_size(request.page_size)
        with self._database.transaction(current_call().scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = find(tx, request.parent, after=after(request), limit=size + 1)
        return page(found, size, request)
