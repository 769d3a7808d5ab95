"""Members' life, by gRPC: invitations, roles, passwords, removal."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from numerator.accounts.v1 import accounts_pb2, groups_pb2
from numerator.accounts.v1 import members_pb2 as pb
from numerator.accounts.v1.groups_pb2_grpc import GroupServiceStub
from numerator.accounts.v1.members_pb2_grpc import MemberServiceStub
from numerator.events.v1 import accounts_pb2 as events
from numerator.options.v1 import options_pb2

from services.accounts.model.member_invitations import INVITATION_LIFE
from services.accounts.tests.test_sessions import grant, log_in, refresh, refused, revoked
from services.accounts.tests.workers import make_worker
from services.accounts.tests.world import PASSWORD, Company, World, reason_of
from services.chassis.principal import Principal
from services.chassis.testing.rpc import anonymous, client, member, operator

NEW = "another long password"


def members(world: World, principal: Principal) -> MemberServiceStub:
    return MemberServiceStub(world.running.as_(principal))


def create(world: World, company: Company, name: str, role: str = "EDITOR") -> Principal:
    """A colleague, as who comes in."""
    made = world.as_(company.owner).CreateMember(
        accounts_pb2.CreateMemberRequest(
            parent=company.name,
            email=f"{name}@x.example",
            display_name=name,
            role=options_pb2.Role.Value(role),
            password=PASSWORD,
        )
    )
    return member(company.name, [role], made.name)


def invite(
    world: World, company: Company, email: str = "li@x.example", role: str = "EDITOR"
) -> pb.MemberInvitation:
    return members(world, company.owner).CreateMemberInvitation(
        pb.CreateMemberInvitationRequest(
            parent=company.name, email=email, role=options_pb2.Role.Value(role), request_id=email
        )
    )


def accept(world: World, token: str) -> accounts_pb2.Member:
    return members(world, anonymous()).AcceptMemberInvitation(
        pb.AcceptMemberInvitationRequest(token=token, display_name="Li", password=NEW)
    )


def test_invitation__makes_a_member_once(world: World) -> None:
    """Who holds the token chooses the password and logs in with the role; the token is shown, kept and used once."""
    company = world.register()
    invited = invite(world, company, "Li@X.example")
    assert (invited.email, invited.inviter) == ("li@x.example", company.owner.subject)
    assert invite(world, company, "Li@X.example").token == ""
    listed = members(world, company.owner).ListMemberInvitations(
        pb.ListMemberInvitationsRequest(parent=company.name)
    )
    assert [(each.name, each.token) for each in listed.member_invitations] == [(invited.name, "")]
    for table in ("member_invitations", "idempotency", "audit", "outbox"):
        assert invited.token not in str(world.rows(table))

    made = accept(world, invited.token)
    assert (made.email, made.role) == ("li@x.example", options_pb2.EDITOR)
    assert log_in(world, NEW, email="li@x.example").identity.subject == made.name
    assert refused(accept, world, invited.token) == "INVITATION_INVALID"
    assert not world.rows("member_invitations")
    assert [row["actor"] for row in world.audited("member_invitation.accepted")] == [made.name]


def test_invitation__many_accept_at_once(world: World) -> None:
    """One of them becomes the member."""
    token = invite(world, world.register()).token

    def attempt(_: int) -> str:
        try:
            accept(world, token)
        except grpc.RpcError as error:
            return reason_of(error)
        return "OK"

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(attempt, range(6))) == [*["INVITATION_INVALID"] * 5, "OK"]


def test_invitation__ends(world: World) -> None:
    """After seven days, when it is revoked, and when the inviter loses the role or goes: nobody comes back by an old invitation."""
    company = world.register()
    old = invite(world, company, "old@x.example")
    world.clock.advance(INVITATION_LIFE)
    assert refused(accept, world, old.token) == "INVITATION_INVALID"
    make_worker().purge(world.database)
    assert not world.rows("member_invitations")

    owner = members(world, company.owner)
    revoked_one = invite(world, company, "a@x.example")
    owner.DeleteMemberInvitation(pb.DeleteMemberInvitationRequest(name=revoked_one.name))
    assert refused(accept, world, revoked_one.token) == "INVITATION_INVALID"
    assert (
        refused(owner.DeleteMemberInvitation, pb.DeleteMemberInvitationRequest(name=revoked_one.name))
        == "NOT_FOUND"
    )
    for number, end in enumerate(
        [
            lambda name: owner.RemoveMember(pb.RemoveMemberRequest(name=name)),
            lambda name: owner.UpdateMember(pb.UpdateMemberRequest(name=name, role=options_pb2.ANALYST)),
        ]
    ):
        admin = create(world, company, f"admin-{number}", "ADMIN")
        by_admin = members(world, admin).CreateMemberInvitation(
            pb.CreateMemberInvitationRequest(
                parent=company.name, email=f"friend-{number}@x.example", role=options_pb2.ADMIN
            )
        )
        end(admin.subject)
        assert refused(accept, world, by_admin.token) == "INVITATION_INVALID"


def test_invitation__is_refused(world: World) -> None:
    """For an address that is taken, for a role that is wider than the inviter's, and by who does not look after members."""
    company = world.register()
    create(world, company, "li")
    assert refused(invite, world, company, "li@x.example") == "EMAIL_TAKEN"
    request = pb.CreateMemberInvitationRequest(
        parent=company.name, email="new@x.example", role=options_pb2.OWNER
    )
    for caller, reason in [
        (member(company.name, ["ADMIN"]), "ROLE_TOO_WIDE"),
        (member(company.name, ["EDITOR"]), "ROLE_MISSING"),
        (client(company.name, ["accounts.write"]), "CALLER_NOT_ALLOWED"),
        (member("enterprises/other"), "NOT_FOUND"),
    ]:
        assert refused(members(world, caller).CreateMemberInvitation, request) == reason
    # Taken between the invitation and its acceptance: it stays open.
    open_one = invite(world, company, "soon@x.example")
    create(world, company, "soon")
    assert refused(accept, world, open_one.token) == "EMAIL_TAKEN"
    assert len(world.rows("member_invitations")) == 1


def test_update__changes_name_and_role(world: World) -> None:
    """The answer and the event say it, access tokens with the old role are refused, the session goes on with the new one."""
    company = world.register()
    li = create(world, company, "li")
    opened = log_in(world, email="li@x.example")
    owner = members(world, company.owner)
    seen = owner.GetMember(pb.GetMemberRequest(name=li.subject))
    renamed = members(world, li).UpdateMember(
        pb.UpdateMemberRequest(name=li.subject, display_name="Li Na", etag=seen.etag)
    )
    assert (renamed.display_name, renamed.role) == ("Li Na", options_pb2.EDITOR)
    assert not revoked(world)
    assert not world.told(events.MemberRoleChanged)
    promoted = owner.UpdateMember(pb.UpdateMemberRequest(name=li.subject, role=options_pb2.ADMIN))
    assert (promoted.display_name, promoted.role) == ("Li Na", options_pb2.ADMIN)
    assert revoked(world) == {li.subject}
    assert list(refresh(world, opened.refresh_token).identity.roles) == [options_pb2.ADMIN]
    assert [(each.member, each.role) for each in world.told(events.MemberRoleChanged)] == [
        (li.subject, options_pb2.ADMIN)
    ]
    stale = pb.UpdateMemberRequest(name=li.subject, role=options_pb2.EDITOR, etag=seen.etag)
    assert refused(owner.UpdateMember, stale) == "ETAG_MISMATCH"


def test_update__is_refused(world: World) -> None:
    """Nobody changes their own role without being in charge, or an OWNER's without being one, or somebody else's name."""
    company = world.register()
    li, admin = create(world, company, "li"), create(world, company, "admin", "ADMIN")
    raising = pb.UpdateMemberRequest(name=li.subject, role=options_pb2.ADMIN)
    assert refused(members(world, li).UpdateMember, raising) == "ROLE_MISSING"
    renaming = pb.UpdateMemberRequest(name=admin.subject, display_name="x")
    assert refused(members(world, li).UpdateMember, renaming) == "ROLE_MISSING"
    for request in (
        pb.UpdateMemberRequest(name=li.subject, role=options_pb2.OWNER),
        pb.UpdateMemberRequest(name=admin.subject, role=options_pb2.OWNER),
        pb.UpdateMemberRequest(name=company.owner.subject, role=options_pb2.EDITOR),
    ):
        assert refused(members(world, admin).UpdateMember, request) == "ROLE_TOO_WIDE"
    nothing = pb.UpdateMemberRequest(name=li.subject, role=options_pb2.ROLE_UNSPECIFIED)
    assert refused(members(world, admin).UpdateMember, nothing) == "INVALID_ARGUMENT"
    removing = pb.RemoveMemberRequest(name=company.owner.subject)
    assert refused(members(world, admin).RemoveMember, removing) == "ROLE_TOO_WIDE"
    assert refused(members(world, operator()).RemoveMember, removing) == "CALLER_NOT_ALLOWED"
    assert len(world.rows("members")) == 3


def test_remove__ends_everything(world: World) -> None:
    """Login, sessions, access tokens and grants; a second removal finds nobody, and the address is free again."""
    company = world.register()
    li = create(world, company, "li")
    group = GroupServiceStub(world.running.as_(company.owner)).CreateAccountGroup(
        groups_pb2.CreateAccountGroupRequest(parent=company.name, display_name="Dealers")
    )
    grant(world, company.owner, li.subject, group.name, role="ADMIN", life=timedelta(days=1))
    opened = log_in(world, email="li@x.example")
    request = pb.RemoveMemberRequest(name=li.subject)
    members(world, company.owner).RemoveMember(request)
    assert refused(refresh, world, opened.refresh_token) == "SESSION_ENDED"
    assert refused(log_in, world, email="li@x.example") == "CREDENTIALS_INVALID"
    assert revoked(world) == {li.subject}
    assert not world.rows("grants")
    assert refused(members(world, company.owner).RemoveMember, request) == "NOT_FOUND"
    assert world.told(events.MemberRoleChanged)[-1] == events.MemberRoleChanged(member=li.subject)
    create(world, company, "li")


@pytest.mark.parametrize("way", ["remove", "degrade"])
def test_owner__is_never_the_last_to_go(world: World, way: str) -> None:
    """Three OWNERs take each other's role away, all at once and again and again: one stays."""
    company = world.register()
    owners = [company.owner, *(create(world, company, f"o{n}", "OWNER") for n in range(2))]

    def take(pair: tuple[Principal, Principal]) -> str:
        by, whose = pair
        service = members(world, by)
        try:
            if way == "remove":
                service.RemoveMember(pb.RemoveMemberRequest(name=whose.subject))
            else:
                service.UpdateMember(pb.UpdateMemberRequest(name=whose.subject, role=options_pb2.EDITOR))
        except grpc.RpcError as error:
            return reason_of(error)
        return "OK"

    pairs = [(by, whose) for by in owners for whose in owners]
    with ThreadPoolExecutor(9) as pool:
        reasons = list(pool.map(take, pairs))
    assert "LAST_OWNER" in reasons
    assert set(reasons) <= {"OK", "LAST_OWNER", "NOT_FOUND"}
    assert sum(row["role"] == "OWNER" for row in world.rows("members")) == 1


def test_password__is_changed_by_its_owner(world: World) -> None:
    """The old one is worth nothing; all other sessions end, with their access tokens, and the present one goes on."""
    company = world.register()
    one, other = log_in(world), log_in(world)
    mine = Principal(
        "MEMBER", company.owner.subject, company.name, frozenset({"OWNER"}), session=one.identity.session
    )
    request = pb.ChangePasswordRequest(name=mine.subject, old_password=PASSWORD, new_password=NEW)
    wrong = pb.ChangePasswordRequest(name=mine.subject, old_password="wrong", new_password=NEW)
    short = pb.ChangePasswordRequest(name=mine.subject, old_password=PASSWORD, new_password="short")
    assert refused(members(world, mine).ChangePassword, wrong) == "CREDENTIALS_INVALID"
    assert refused(members(world, mine).ChangePassword, short) == "INVALID_ARGUMENT"
    admin = create(world, company, "admin", "OWNER")
    assert refused(members(world, admin).ChangePassword, request) == "NOT_YOURSELF"

    members(world, mine).ChangePassword(request)
    assert refused(refresh, world, other.refresh_token) == "SESSION_ENDED"
    assert refresh(world, one.refresh_token).session.name == one.session.name
    assert other.identity.session in revoked(world)
    assert one.identity.session not in revoked(world)
    assert refused(log_in, world) == "CREDENTIALS_INVALID"
    log_in(world, NEW)


def test_password__cannot_be_guessed_with_a_stolen_token(world: World) -> None:
    """Tries at the old password are counted as logins are."""
    company = world.register()
    wrong = pb.ChangePasswordRequest(name=company.owner.subject, old_password="wrong", new_password=NEW)
    reasons = [refused(members(world, company.owner).ChangePassword, wrong) for _ in range(12)]
    assert reasons[-2:] == ["TOO_MANY_LOGINS"] * 2
    world.clock.advance(timedelta(days=1))
    assert refused(members(world, company.owner).ChangePassword, wrong) == "CREDENTIALS_INVALID"


def test_get__shows_members_to_themselves_and_those_in_charge(world: World) -> None:
    """Nobody else: not a colleague, not another enterprise."""
    company = world.register()
    li = create(world, company, "li")
    request = pb.GetMemberRequest(name=company.owner.subject)
    for caller in (company.owner, member(company.name, ["ADMIN"]), operator()):
        assert members(world, caller).GetMember(request).email == "owner@tianshan.example"
    assert refused(members(world, li).GetMember, request) == "ROLE_MISSING"
    assert refused(members(world, member("enterprises/other")).GetMember, request) == "NOT_FOUND"
    assert (
        refused(
            members(world, company.owner).GetMember, pb.GetMemberRequest(name=f"{company.name}/members/x")
        )
        == "NOT_FOUND"
    )
