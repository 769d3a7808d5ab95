"""Members' sessions, by gRPC: logging in, refreshing, ending, and guessing."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta

import grpc
import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st
from numerator.accounts.v1 import grants_pb2, groups_pb2
from numerator.accounts.v1 import sessions_pb2 as pb
from numerator.accounts.v1.grants_pb2_grpc import GrantServiceStub
from numerator.accounts.v1.groups_pb2_grpc import GroupServiceStub
from numerator.accounts.v1.sessions_pb2_grpc import SessionServiceStub
from numerator.options.v1 import options_pb2

from services.accounts.model.sessions import (
    FREE_TRIES_FROM_A_NETWORK,
    FREE_TRIES_IN_ALL,
    IDLE_LIFE,
    LONGEST_WAIT,
    Device,
    wait_after,
)
from services.accounts.tests.workers import make_worker
from services.accounts.tests.world import PASSWORD, World, reason_of
from services.chassis.database import PLATFORM
from services.chassis.principal import Principal
from services.chassis.testing.rpc import gateway, member, operator

EMAIL = "owner@tianshan.example"
HOME = "203.0.113.7"


def sessions(world: World, principal: Principal) -> SessionServiceStub:
    return SessionServiceStub(world.running.as_(principal))


def log_in(
    world: World, password: str = PASSWORD, address: str = HOME, email: str = EMAIL, agent: str = "browser"
) -> pb.OpenedSession:
    return sessions(world, gateway()).OpenSession(
        pb.OpenSessionRequest(email=email, password=password, address=address, user_agent=agent)
    )


def refresh(world: World, token: str, address: str = HOME) -> pb.OpenedSession:
    return sessions(world, gateway()).RefreshSession(
        pb.RefreshSessionRequest(refresh_token=token, address=address)
    )


def refused(call, *arguments, **fields) -> str:  # type: ignore[no-untyped-def]
    """Why a call is refused."""
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **fields)
    return reason_of(error.value)


def revoked(world: World) -> set[str]:
    return {row["subject"] for row in world.rows("revocations")}


def test_open__tells_who_it_is_and_keeps_no_secret(world: World) -> None:
    """Identity and device are told; the refresh token is kept as a hash, the address as a network."""
    company = world.register()
    opened = log_in(world, agent="Browser/1 " + "x" * 500 + "\n")
    assert (opened.identity.subject, opened.identity.enterprise) == (company.owner.subject, company.name)
    assert list(opened.identity.roles) == [options_pb2.OWNER]
    assert opened.session.name == f"{company.owner.subject}/sessions/{opened.identity.session}"
    assert (opened.session.address, len(opened.session.user_agent)) == ("203.0.113.0/24", 120)
    assert opened.session.expire_time.ToDatetime() - opened.session.create_time.ToDatetime() == IDLE_LIFE
    for table in ("sessions", "refresh_tokens", "audit", "login_tries", "outbox"):
        kept = str(world.rows(table))
        assert opened.refresh_token not in kept
        assert HOME not in kept


def test_refresh__gives_another_token_each_time(world: World) -> None:
    """Each token works once, and each use makes the session live on for 30 days."""
    world.register()
    opened = log_in(world)
    tokens = [opened.refresh_token]
    for _ in range(3):
        world.clock.advance(IDLE_LIFE - timedelta(seconds=1))
        refreshed = refresh(world, tokens[-1])
        assert refreshed.session.name == opened.session.name
        assert list(refreshed.identity.roles) == [options_pb2.OWNER]
        tokens.append(refreshed.refresh_token)
    assert len(set(tokens)) == 4
    world.clock.advance(IDLE_LIFE)
    assert refused(refresh, world, tokens[-1]) == "SESSION_ENDED"


@pytest.mark.parametrize("reused", [0, 1, 2])
def test_refresh__with_a_used_token_ends_the_session(world: World, reused: int) -> None:
    """However old it is: the thief is out and so is the robbed one, their access tokens too; it is written down."""
    world.register()
    opened = log_in(world)
    tokens = [opened.refresh_token]
    for _ in range(3):
        tokens.append(refresh(world, tokens[-1]).refresh_token)
    assert refused(refresh, world, tokens[reused]) == "SESSION_ENDED"
    assert refused(refresh, world, tokens[-1]) == "SESSION_ENDED"
    assert [row["subject"] for row in world.audited("session.token_reused")] == [opened.session.name]
    assert revoked(world) == {opened.identity.session}
    assert not world.rows("sessions")
    assert not world.rows("refresh_tokens")


def test_refresh__many_at_once_with_one_token(world: World) -> None:
    """At most one is served, and then the session has ended."""
    world.register()
    opened = log_in(world)

    def attempt(_: int) -> str:
        try:
            refresh(world, opened.refresh_token)
        except grpc.RpcError as error:
            return reason_of(error)
        return "OK"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(attempt, range(8))) == ["OK", *["SESSION_ENDED"] * 7]
    assert not world.rows("sessions")


def test_refresh__with_what_was_never_a_token(world: World) -> None:
    """Harms nobody: a session's id is no secret, and does not end it."""
    world.register()
    opened = log_in(world)
    for token in ("nonsense", opened.identity.session, opened.session.name):
        assert refused(refresh, world, token) == "SESSION_ENDED"
    assert refresh(world, opened.refresh_token).session.name == opened.session.name


def test_sessions__are_listed_and_ended_by_their_member(world: World) -> None:
    """Their own, page by page; one, then all but the present one, then all."""
    company = world.register()
    opened = [log_in(world, agent=f"device {n}") for n in range(5)]
    mine = Principal(
        "MEMBER",
        company.owner.subject,
        company.name,
        roles=frozenset({"ANALYST"}),
        session=opened[0].identity.session,
    )
    service = sessions(world, mine)
    found: list[pb.Session] = []
    token = ""
    while True:
        listed = service.ListSessions(
            pb.ListSessionsRequest(parent=mine.subject, page_size=2, page_token=token)
        )
        found += listed.sessions
        token = listed.next_page_token
        if not token:
            break
    names = {each.name for each in found}
    assert names >= {each.session.name for each in opened}
    assert len(names) == len(found)
    assert [each.name for each in found if each.current] == [opened[0].session.name]

    service.EndSession(pb.EndSessionRequest(name=opened[1].session.name))
    assert refused(refresh, world, opened[1].refresh_token) == "SESSION_ENDED"
    assert refused(service.EndSession, pb.EndSessionRequest(name=opened[1].session.name)) == "NOT_FOUND"
    ended = service.EndSessions(pb.EndSessionsRequest(parent=mine.subject, keep_current=True))
    assert ended.ended_count == len(found) - 2
    kept = refresh(world, opened[0].refresh_token)
    assert service.EndSessions(pb.EndSessionsRequest(parent=mine.subject)).ended_count == 1
    assert refused(refresh, world, kept.refresh_token) == "SESSION_ENDED"
    assert revoked(world) == {each.name.rpartition("/")[2] for each in found}
    assert len(world.audited("session.ended")) == len(found)


def test_sessions__of_others_are_for_those_in_charge(world: World) -> None:
    """An ADMIN sees and ends them, a colleague does not, an operator neither; another enterprise's are not there."""
    company = world.register()
    other = world.register(email="owner@kunlun.example")
    opened = log_in(world)
    listing = pb.ListSessionsRequest(parent=company.owner.subject)
    ending = pb.EndSessionRequest(name=opened.session.name)
    colleague = sessions(world, member(company.name, ["EDITOR"]))
    stranger = sessions(world, other.owner)
    for call in (colleague.ListSessions, sessions(world, operator()).ListSessions):
        assert refused(call, listing) in {"ROLE_MISSING", "CALLER_NOT_ALLOWED"}
    assert refused(colleague.EndSession, ending) == "ROLE_MISSING"
    assert (
        refused(colleague.EndSessions, pb.EndSessionsRequest(parent=company.owner.subject)) == "ROLE_MISSING"
    )
    assert refused(stranger.ListSessions, listing) == refused(stranger.EndSession, ending) == "NOT_FOUND"
    admin = sessions(world, member(company.name, ["ADMIN"]))
    assert opened.session.name in {each.name for each in admin.ListSessions(listing).sessions}
    admin.EndSession(ending)
    assert refused(refresh, world, opened.refresh_token) == "SESSION_ENDED"
    missing = f"{company.name}/members/nobody"
    assert refused(admin.ListSessions, pb.ListSessionsRequest(parent=missing)) == "NOT_FOUND"


def test_guessing__is_slowed_down_for_the_guesser(world: World) -> None:
    """After ten tries the eleventh waits, also with the right password, and each failure makes the wait longer."""
    world.register()
    stranger = "198.51.100.1"
    for _ in range(FREE_TRIES_FROM_A_NETWORK):
        assert refused(log_in, world, "wrong horse battery", stranger) == "CREDENTIALS_INVALID"
    assert refused(log_in, world, PASSWORD, stranger) == "TOO_MANY_LOGINS"
    assert refused(log_in, world, PASSWORD, "198.51.100.200") == "TOO_MANY_LOGINS"  # the same network
    log_in(world, PASSWORD, HOME)
    waits = []
    for _ in range(12):
        waited = 0
        while refused(log_in, world, "wrong horse battery", stranger) == "TOO_MANY_LOGINS":
            waited += 1
            world.clock.advance(timedelta(seconds=1))
        waits.append(waited)
    assert waits[:5] == [1, 2, 4, 8, 16]
    assert max(waits) == LONGEST_WAIT.total_seconds()


def test_guessing__locks_no_member_out(world: World) -> None:
    """Strangers with very many networks slow each other down, and newcomers; not the member, from where a session was used."""
    world.register()
    log_in(world)
    reasons = [
        refused(log_in, world, "wrong horse battery", f"10.{n // 200}.{n % 200}.1")
        for n in range(FREE_TRIES_IN_ALL + 5)
    ]
    assert reasons[FREE_TRIES_IN_ALL - 1 :] == ["CREDENTIALS_INVALID", *["TOO_MANY_LOGINS"] * 5]
    assert refused(log_in, world, PASSWORD, "192.0.2.1") == "TOO_MANY_LOGINS"
    assert log_in(world, PASSWORD, HOME).refresh_token
    # That success has begun the count anew, for everybody.
    assert log_in(world, PASSWORD, "192.0.2.1").refresh_token


def test_guessing__many_at_once_is_not_faster(world: World) -> None:
    """A hundred tries at the same time, on any number of gateways: ten are looked at."""
    world.register()

    def attempt(_: int) -> str:
        return refused(log_in, world, "wrong horse battery", "198.51.100.1")

    with ThreadPoolExecutor(10) as pool:
        reasons = list(pool.map(attempt, range(40)))
    assert reasons.count("CREDENTIALS_INVALID") == FREE_TRIES_FROM_A_NETWORK
    assert reasons.count("TOO_MANY_LOGINS") == 40 - FREE_TRIES_FROM_A_NETWORK


def test_guessing__tells_nothing_of_who_is_there(world: World) -> None:
    """Addresses that nobody has are slowed down after as many tries; the table holds no address."""
    for _ in range(FREE_TRIES_FROM_A_NETWORK):
        assert refused(log_in, world, email="nobody@x.example") == "CREDENTIALS_INVALID"
    assert refused(log_in, world, email="Nobody@x.example ") == "TOO_MANY_LOGINS"
    assert "nobody" not in str(world.rows("login_tries"))


def test_password__is_hashed_anew_when_parameters_change(world: World) -> None:
    """At the next login; the password stays the same, and an old hash is gone."""
    world.register()
    old = PasswordHasher(time_cost=1, memory_cost=8_192, parallelism=1).hash(PASSWORD)
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("update members set password_hash = %s", (old,))
    assert refused(log_in, world, "wrong horse battery") == "CREDENTIALS_INVALID"
    assert world.rows("members")[0]["password_hash"] == old
    log_in(world)
    assert world.rows("members")[0]["password_hash"] not in {old, PASSWORD}
    log_in(world)


def test_sessions__that_nobody_uses_are_forgotten(world: World) -> None:
    """With their tokens, and the tries to log in after a day."""
    world.register()
    log_in(world)
    refused(log_in, world, "wrong horse battery")
    world.clock.advance(timedelta(days=2))
    make_worker().purge(world.database)
    assert world.rows("sessions")
    assert not world.rows("login_tries")
    world.clock.advance(IDLE_LIFE)
    make_worker().purge(world.database)
    assert not world.rows("sessions")
    assert not world.rows("refresh_tokens")


@given(st.integers(0, 10**9), st.integers(1, 100))
def test_wait__grows_and_is_bounded(tries: int, free: int) -> None:
    """Nothing within what is free; then never shorter than one try before, and never above a quarter of an hour."""
    wait = wait_after(tries, free)
    assert timedelta() <= wait <= LONGEST_WAIT
    assert bool(wait) == (tries >= free)
    assert wait_after(tries + 1, free) >= wait


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("", ""),
        ("localhost", ""),
    ],
)
def test_device__keeps_the_network_only(address: str, network: str) -> None:
    """Not the address itself, which is personal data."""
    assert Device.of(address, "").network == network


def grant(world: World, by: Principal, to: str, group: str, *, role: str, life: timedelta) -> str:
    """Grant a member a role in a group; the grant's name."""
    with world.database.transaction(PLATFORM) as tx:
        end = tx.now + life
    request = grants_pb2.CreateGrantRequest(
        parent=by.enterprise or "", member=to, role=options_pb2.Role.Value(role), group=group
    )
    request.expire_time.FromDatetime(end)
    return GrantServiceStub(world.running.as_(by)).CreateGrant(request).name


def test_agency__acts_for_a_client_with_grants_alone(world: World) -> None:
    """While a grant lasts, at login or at refresh; the token does not outlast it, and taking it back ends the token."""
    client_of_it, agency = world.register(), world.register(email="owner@agency.example")
    group = GroupServiceStub(world.running.as_(client_of_it.owner)).CreateAccountGroup(
        groups_pb2.CreateAccountGroupRequest(parent=client_of_it.name, display_name="Dealers")
    )
    acting = pb.OpenSessionRequest(
        email="owner@agency.example", password=PASSWORD, acts_for=client_of_it.name
    )
    service = sessions(world, gateway())
    assert refused(service.OpenSession, acting) == "NO_GRANT"
    life = timedelta(minutes=3)
    grant(world, client_of_it.owner, agency.owner.subject, group.name, role="EDITOR", life=life)

    opened = service.OpenSession(acting)
    group_id = group.name.rpartition("/")[2]
    assert (opened.identity.subject, opened.identity.enterprise) == (agency.owner.subject, client_of_it.name)
    assert not opened.identity.roles
    assert [(each.right, list(each.groups)) for each in opened.identity.grants] == [("EDITOR", [group_id])]
    end = opened.rights_end_time.ToDatetime(UTC)
    assert end == world.clock.now() + life

    own = service.RefreshSession(pb.RefreshSessionRequest(refresh_token=opened.refresh_token))
    assert (own.identity.enterprise, list(own.identity.roles)) == (agency.name, [options_pb2.OWNER])
    assert not own.identity.grants
    assert own.session.acts_for == agency.name
    again = pb.RefreshSessionRequest(refresh_token=own.refresh_token, acts_for=client_of_it.name)
    world.clock.advance(life)
    assert refused(service.RefreshSession, again) == "NO_GRANT"
    grant(world, client_of_it.owner, agency.owner.subject, group.name, role="ANALYST", life=life)
    assert service.RefreshSession(again).identity.grants[0].right == "ANALYST"


def test_grants__in_the_own_enterprise_travel_beside_the_role(world: World) -> None:
    """And a client that asks for a second factor asks the agency's members, too."""
    company, agency = world.register(), world.register(email="owner@agency.example")
    group = GroupServiceStub(world.running.as_(company.owner)).CreateAccountGroup(
        groups_pb2.CreateAccountGroupRequest(parent=company.name, display_name="Dealers")
    )
    for member_name in (company.owner.subject, agency.owner.subject):
        grant(world, company.owner, member_name, group.name, role="EDITOR", life=timedelta(days=2))
    identity = log_in(world).identity
    assert list(identity.roles) == [options_pb2.OWNER]
    assert [each.right for each in identity.grants] == ["EDITOR"]

    with world.database.transaction(PLATFORM) as tx:
        tx.execute("update enterprises set second_factor_required = enterprise = %s", (company.name,))
    acting = pb.OpenSessionRequest(email="owner@agency.example", password=PASSWORD, acts_for=company.name)
    assert refused(sessions(world, gateway()).OpenSession, acting) == "TOTP_ENROLLMENT_REQUIRED"
    log_in(world, email="owner@agency.example")
