"""Serves `members.proto`."""

import grpc
from google.protobuf.empty_pb2 import Empty
from numerator.accounts.v1 import accounts_pb2
from numerator.accounts.v1 import members_pb2 as pb
from numerator.accounts.v1 import members_pb2_grpc as pb_grpc
from numerator.options.v1 import options_pb2
from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import hash_password
from services.accounts.model import MEMBER_NAME, check_password, normal_email
from services.accounts.model.member_invitations import MEMBER_INVITATION_NAME, MemberInvitation
from services.accounts.rpc import after, convert, page
from services.accounts.store import member_invitations as invitation_rows
from services.accounts.store import members as member_rows
from services.accounts.usecases import member_invitations, members, totp
from services.accounts.usecases.login import prove
from services.accounts.usecases.secrets import Vault
from services.accounts.usecases.sessions import check_may_manage
from services.chassis.database import PLATFORM, Database
from services.chassis.paging import page_size
from services.chassis.rpc.call import current_call


class MemberServicer(pb_grpc.MemberServiceServicer):
    """Serves `numerator.accounts.v1.MemberService`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def GetMember(self, request: pb.GetMemberRequest, context: grpc.ServicerContext) -> accounts_pb2.Member:
        call = current_call()
        MEMBER_NAME.parse(request.name)
        check_may_manage(call.principal, request.name)
        with self._database.transaction(call.scope) as tx:
            return convert.member(member_rows.read_member(tx, request.name))

    def UpdateMember(
        self, request: pb.UpdateMemberRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.Member:
        call = current_call()
        MEMBER_NAME.parse(request.name)

        def update() -> accounts_pb2.Member:
            return convert.member(
                members.update_member(
                    tx,
                    request.name,
                    display_name=request.display_name if request.HasField("display_name") else None,
                    role=convert.role(request.role) if request.HasField("role") else None,
                    etag=request.etag,
                    caller=call.principal,
                )
            )

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, update)

    def RemoveMember(self, request: pb.RemoveMemberRequest, context: grpc.ServicerContext) -> Empty:
        call = current_call()
        MEMBER_NAME.parse(request.name)

        def remove() -> Empty:
            members.remove_member(tx, request.name, etag=request.etag, caller=call.principal)
            return Empty()

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, remove)

    def ChangePassword(self, request: pb.ChangePasswordRequest, context: grpc.ServicerContext) -> Empty:
        MEMBER_NAME.parse(request.name)
        members.change_password(
            self._database,
            request.name,
            old=SecretStr(request.old_password),
            new=SecretStr(request.new_password),
            caller=current_call().principal,
        )
        return Empty()

    # Invitations

    def CreateMemberInvitation(
        self, request: pb.CreateMemberInvitationRequest, context: grpc.ServicerContext
    ) -> pb.MemberInvitation:
        call = current_call()
        token, email = "", normal_email(request.email)
        with self._database.transaction(PLATFORM) as tx:
            member_invitations.check_free(tx, email)

        def invite() -> pb.MemberInvitation:
            nonlocal token
            invitation, made = member_invitations.invite(
                tx, request.parent, email=email, role=convert.role(request.role), caller=call.principal
            )
            token = made.get_secret_value()
            return _invitation(invitation)

        with self._database.transaction(call.scope) as tx:
            reply = tx.once(request, invite)
        # Only now: what is kept for a repetition must not hold the token.
        reply.token = token
        return reply

    def ListMemberInvitations(
        self, request: pb.ListMemberInvitationsRequest, context: grpc.ServicerContext
    ) -> pb.ListMemberInvitationsResponse:
        size = page_size(request.page_size)
        with self._database.transaction(current_call().scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = invitation_rows.list_invitations(tx, request.parent, after=after(request), limit=size + 1)
        items, next_token = page(found, size, request)
        return pb.ListMemberInvitationsResponse(
            member_invitations=map(_invitation, items), next_page_token=next_token
        )

    def DeleteMemberInvitation(
        self, request: pb.DeleteMemberInvitationRequest, context: grpc.ServicerContext
    ) -> Empty:
        call = current_call()
        MEMBER_INVITATION_NAME.parse(request.name)

        def delete() -> Empty:
            member_invitations.revoke_invitation(tx, request.name, caller=call.principal)
            return Empty()

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, delete)

    def AcceptMemberInvitation(
        self, request: pb.AcceptMemberInvitationRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.Member:
        check_password(request.password, "password")
        password_hash = hash_password(SecretStr(request.password))
        with self._database.transaction(PLATFORM) as tx:
            return convert.member(
                member_invitations.accept(
                    tx,
                    SecretStr(request.token),
                    display_name=request.display_name,
                    password_hash=password_hash,
                )
            )

    # Second factors

    def EnrollTotp(
        self, request: pb.EnrollTotpRequest, context: grpc.ServicerContext
    ) -> pb.EnrollTotpResponse:
        proof = prove(self._database, request.email, SecretStr(request.password))
        with self._database.transaction(PLATFORM) as tx:
            return pb.EnrollTotpResponse(otpauth_uri=totp.enroll(tx, self._vault, proof))

    def ConfirmTotp(
        self, request: pb.ConfirmTotpRequest, context: grpc.ServicerContext
    ) -> pb.ConfirmTotpResponse:
        proof = prove(self._database, request.email, SecretStr(request.password))
        with self._database.transaction(PLATFORM) as tx:
            codes = totp.confirm(tx, self._vault, proof, request.totp)
        return pb.ConfirmTotpResponse(recovery_codes=[each.get_secret_value() for each in codes])

    def DisableTotp(self, request: pb.DisableTotpRequest, context: grpc.ServicerContext) -> Empty:
        call = current_call()
        MEMBER_NAME.parse(request.name)
        if request.name == call.principal.subject:
            with self._database.transaction(call.scope) as tx:
                email = member_rows.read_member(tx, request.name).email
            proof = prove(self._database, email, SecretStr(request.password))
            with self._database.transaction(PLATFORM) as tx:
                proof.use(tx)
        else:
            totp.check_may_disable(call.principal)
        with self._database.transaction(call.scope) as tx:
            totp.disable(tx, request.name, actor=call.principal.subject)
        return Empty()


def _invitation(invitation: MemberInvitation) -> pb.MemberInvitation:
    return pb.MemberInvitation(
        name=invitation.name,
        email=invitation.email,
        role=options_pb2.Role.Value(invitation.role),
        inviter=invitation.inviter,
        create_time=convert.time(invitation.create_time),
        expire_time=convert.time(invitation.expire_time),
    )
