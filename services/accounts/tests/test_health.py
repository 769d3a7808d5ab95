"""How well accounts can be used, until when, and who is asked again by which day."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numerator.accounts.v1 import accounts_pb2, health_pb2_grpc
from numerator.accounts.v1 import health_pb2 as pb
from numerator.events.v1 import accounts_pb2 as events
from numerator.events.v1.publishing_pb2 import DeliveryFailed, DeliveryPublished

from services.accounts import metrics
from services.accounts.model import Account, AccountState, Profile
from services.accounts.model.health import Due, Health, Hour, calendar, measure, plan
from services.accounts.tests.workers import make_worker
from services.accounts.tests.world import Company, World
from services.accounts.usecases import health
from services.chassis.database import PLATFORM
from services.chassis.messaging.envelope import Event
from services.chassis.testing.measures import measured
from services.chassis.testing.rpc import client, member

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
TODAY = NOON.date()
DAY = timedelta(days=1)


def account(
    state: AccountState = AccountState.ACTIVE, expires: datetime | None = None, network: str = "mastodon"
) -> Account:
    """An account in a state, whose token ends then."""
    profile = Profile("1", "brand", "Brand", "mastodon", "4.5.0")
    name = "enterprises/x/accounts/a"
    return Account(
        name,
        network,
        "https://social.example",
        profile,
        (),
        NOON,
        NOON,
        NOON,
        state=state,
        token_expire_time=expires,
    )


def hour(ago: int, published: int, failed: int = 0) -> Hour:
    """An hour's deliveries, so many hours ago."""
    return Hour(NOON - timedelta(hours=ago), published, failed)


@pytest.mark.parametrize(
    ("state", "expires", "hours", "expected"),
    [
        (AccountState.ACTIVE, None, [], Health.OK),
        (AccountState.ACTIVE, NOON + 8 * DAY, [], Health.OK),
        (AccountState.ACTIVE, NOON + 7 * DAY, [], Health.EXPIRING),
        (AccountState.ACTIVE, NOON, [], Health.REAUTH_REQUIRED),
        (AccountState.REAUTH_REQUIRED, None, [], Health.REAUTH_REQUIRED),
        (AccountState.REVOKED, None, [], Health.UNBOUND),
        (AccountState.ACTIVE, None, [hour(1, 2, 2)], Health.FAILING),
        (AccountState.ACTIVE, None, [hour(1, 0, 3)], Health.OK),
        (AccountState.ACTIVE, None, [hour(1, 3, 2)], Health.OK),
        (AccountState.ACTIVE, None, [hour(25, 0, 9), hour(1, 1)], Health.OK),
        (AccountState.ACTIVE, NOON + DAY, [hour(1, 0, 9)], Health.FAILING),
        (AccountState.REAUTH_REQUIRED, None, [hour(1, 0, 9)], Health.REAUTH_REQUIRED),
    ],
)
def test_health__says_the_worst(
    state: AccountState, expires: datetime | None, hours: Sequence[Hour], expected: Health
) -> None:
    """Of what holds, what is worse; of few deliveries nothing; of old ones neither."""
    assert measure(account(state, expires), hours, NOON).health is expected


def test_quota__counts_posts_of_its_window() -> None:
    """Three hours on Mastodon, one on Weibo; of an unknown network we know none."""
    hours = [hour(4, 100), hour(2, 10, 5), hour(0, 1)]
    used = [
        measure(account(network=network), hours, NOON).quota_used
        for network in ("mastodon", "weibo", "other")
    ]
    assert used == [11, 1, 0]
    assert measure(account(network="other"), hours, NOON).quota is None


def due(number: int, days: int | None) -> Due:
    """An account whose token ends in so many days, or has ended."""
    return Due(
        f"enterprises/x/accounts/a{number}",
        f"brand-{number}",
        "https://social.example",
        None if days is None else NOON + days * DAY,
    )


def test_plan__150_accounts__in_batches_before_their_ends() -> None:
    """Three batches of fifty on the latest days that do; what does not work any more is done today."""
    found = plan([due(number, 10 + number // 50) for number in range(150)], capacity=50, today=TODAY)
    assert [(batch.day, len(batch.accounts)) for batch in found] == [
        (TODAY + 9 * DAY, 50),
        (TODAY + 10 * DAY, 50),
        (TODAY + 11 * DAY, 50),
    ]
    found = plan([due(1, None), due(2, 20)], capacity=1, today=TODAY)
    assert [(batch.day, [each.handle for each in batch.accounts]) for batch in found] == [
        (TODAY, ["brand-1"]),
        (TODAY + 19 * DAY, ["brand-2"]),
    ]


@given(
    ends=st.lists(st.one_of(st.none(), st.integers(-3, 30)), max_size=60),
    capacity=st.integers(1, 10),
)
def test_plan__is_in_time_whenever_any_plan_is(ends: list[int | None], capacity: int) -> None:
    """All accounts once, full batches but the last, a day each; late only where whoever begins today would be late, too."""
    wanted = [due(number, days) for number, days in enumerate(ends)]
    found = plan(wanted, capacity=capacity, today=TODAY)

    assert sorted(each.account for batch in found for each in batch.accounts) == sorted(
        each.account for each in wanted
    )
    assert all(len(batch.accounts) == capacity for batch in found[:-1])
    days = [batch.day for batch in found]
    assert days == sorted(set(days))
    assert all(day >= TODAY for day in days)
    limits = sorted(0 if days is None else days - 1 for days in ends)
    possible = all(place // capacity <= limit for place, limit in enumerate(limits))
    late = [
        each
        for batch in found
        for each in batch.accounts
        if batch.day > (TODAY if each.expire_time is None else each.expire_time.date() - DAY)
    ]
    assert not (possible and late)


def test_calendar__is_one_that_calendars_read() -> None:
    """Lines end as RFC 5545 says, are at most 75 bytes, and unfold to what was written; one event a batch."""
    batches = plan(
        [Due("enterprises/x/accounts/a", "名,品;牌" * 20, "https://social.example", None), due(1, 20)],
        capacity=1,
        today=TODAY,
    )
    text = calendar("enterprises/x", batches, NOON)
    lines = text.split("\r\n")
    assert lines[-1] == ""
    assert all(len(line.encode()) <= 75 for line in lines)
    assert text.count("BEGIN:VEVENT") == text.count("END:VEVENT") == 2
    unfolded = text.replace("\r\n ", "")
    assert "DTSTART;VALUE=DATE:20260115\r\n" in unfolded
    assert "DESCRIPTION:@" + "名\\,品\\;牌" * 20 + " https://social.example\r\n" in unfolded
    assert "DTSTAMP:20260115T120000Z\r\n" in unfolded
    assert date.fromisoformat("2026-02-03") == batches[1].day


# The service


def stub(world: World, company: Company) -> health_pb2_grpc.HealthServiceStub:
    """The service, as a company's owner sees it."""
    return health_pb2_grpc.HealthServiceStub(world.running.as_(company.owner))


def expires(world: World, name: str, time: datetime) -> None:
    """An account's token ends at a time, as its network said."""
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("update accounts set token_expire_time = %s where name = %s", (time, name))


def watch(world: World) -> None:
    """What the worker does each minute."""
    make_worker().watch_expiries(world.database)


def delivered(world: World, message: DeliveryPublished | DeliveryFailed, number: int) -> None:
    """The worker hears of a delivery."""
    with world.database.transaction(PLATFORM) as tx:
        make_worker().on_delivery_ended(
            tx,
            Event(
                id=f"event-{number}",
                type="",
                subject="",
                time=world.clock.now(),
                enterprise=None,
                message=message,
            ),
        )


def test_health__of_an_account(world: World) -> None:
    """Deliveries of the last day, the quota, and the token's end; of an unknown account's deliveries nothing is kept."""
    company = world.register()
    bound = world.bind(company, "brand")
    expires(world, bound.name, NOON + 3 * DAY)
    for number in range(3):
        delivered(world, DeliveryPublished(account=bound.name), number)
    delivered(world, DeliveryFailed(account=bound.name), 4)
    delivered(world, DeliveryFailed(account=f"{company.name}/accounts/gone"), 5)

    found = stub(world, company).GetAccountHealth(pb.GetAccountHealthRequest(name=bound.name))

    assert (found.health, found.published_count, found.failed_count) == (pb.AccountHealth.EXPIRING, 3, 1)
    assert found.error_rate == 0.25
    assert (found.quota_used, found.quota_posts, found.quota_window.seconds) == (3, 300, 10_800)
    assert found.token_expire_time.ToDatetime(UTC) == NOON + 3 * DAY
    assert len(world.rows("delivery_hours")) == 1
    world.clock.advance(25 * timedelta(hours=1))
    later = stub(world, company).GetAccountHealth(pb.GetAccountHealthRequest(name=bound.name))
    assert (later.published_count, later.HasField("error_rate")) == (0, False)
    world.clock.advance(DAY)
    make_worker().purge(world.database)
    assert not world.rows("delivery_hours")


def test_health__lists_all_in_pages(world: World) -> None:
    """Each account once, also unbound ones."""
    company = world.register()
    names = [world.bind(company, f"brand-{number}").name for number in range(5)]
    world.as_(company.owner).UnbindAccount(accounts_pb2.UnbindAccountRequest(name=names[0]))
    found, token = [], ""
    while True:
        page = stub(world, company).ListAccountHealth(
            pb.ListAccountHealthRequest(parent=company.name, page_size=2, page_token=token)
        )
        found += page.account_health
        if not (token := page.next_page_token):
            break
    assert sorted(each.account for each in found) == sorted(names)
    assert {each.account: each.health for each in found}[names[0]] == pb.AccountHealth.UNBOUND


def test_health__in_some_groups_only(world: World) -> None:
    """Who may read one group of accounts sees nothing of the others."""
    company = world.register()
    bound = world.bind(company, "brand")
    partial = health_pb2_grpc.HealthServiceStub(
        world.running.as_(
            replace(client(company.name), grants={"accounts.read": frozenset({"no-such-group"})})
        )
    )
    assert not partial.ListAccountHealth(pb.ListAccountHealthRequest(parent=company.name)).account_health
    with pytest.raises(grpc.RpcError) as refused:
        partial.GetAccountHealth(pb.GetAccountHealthRequest(name=bound.name))
    assert refused.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(grpc.RpcError) as refused:
        partial.PlanReauthorizations(pb.PlanReauthorizationsRequest(parent=company.name))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    reader = health_pb2_grpc.HealthServiceStub(world.running.as_(member(company.name, ["ANALYST"])))
    assert len(reader.ListAccountHealth(pb.ListAccountHealthRequest(parent=company.name)).account_health) == 1


def test_expiry__is_told_ahead_once_and_at_the_end(world: World) -> None:
    """Seven days before, once for each token; at the end a new authorisation is needed, though no network has refused yet."""
    company = world.register()
    bound, lasting = world.bind(company, "brand"), world.bind(company, "dealer")
    ends = NOON + 8 * DAY
    expires(world, bound.name, ends)
    watch(world)
    assert not world.told(events.AccountTokenExpiring)
    world.clock.advance(2 * DAY)
    watch(world)
    watch(world)
    (told,) = world.told(events.AccountTokenExpiring)
    assert (told.account, told.expire_time.ToDatetime(UTC)) == (bound.name, ends)
    assert {row["enterprise"] for row in world.rows("outbox") if row["type"].endswith("token_expiring")} == {
        company.name
    }
    assert len(world.audited("token.expiring")) == 1
    with world.database.transaction(PLATFORM) as tx:
        metrics.read(tx)
    assert measured("numerator_accounts_tokens_expiring", network="mastodon", within="WEEK") == 1
    assert not world.told(events.AccountReauthRequired)
    world.clock.advance(6 * DAY)
    watch(world)
    watch(world)
    (required,) = world.told(events.AccountReauthRequired)
    assert required.account == bound.name
    states = {row["name"]: row["state"] for row in world.rows("accounts")}
    assert states == {bound.name: "REAUTH_REQUIRED", lasting.name: "ACTIVE"}


def test_expiry__of_a_new_token_is_told_again(world: World) -> None:
    """What was told of the token before does not count."""
    company = world.register()
    bound = world.bind(company, "brand")
    for days in (1, 5):
        expires(world, bound.name, NOON + days * DAY)
        watch(world)
    assert len(world.told(events.AccountTokenExpiring)) == 2


def test_plan__of_an_enterprise(world: World) -> None:
    """Accounts that end within the horizon, those first that do not work; with a calendar of the same."""
    company = world.register()
    names = [world.bind(company, f"brand-{number}").name for number in range(4)]
    for name, days in zip(names[1:], (20, 25, 90), strict=True):
        expires(world, name, NOON + days * DAY)
    with world.database.transaction(PLATFORM) as tx:
        health.require_reauthorization(tx, names[0], actor="test", told=tx.now)
    planned = stub(world, company).PlanReauthorizations(
        pb.PlanReauthorizationsRequest(parent=company.name, daily_capacity=2)
    )
    assert [
        (batch.day, [(item.account, item.late) for item in batch.accounts]) for batch in planned.batches
    ] == [
        ("2026-01-15", [(names[0], True), (names[1], False)]),
        ("2026-02-08", [(names[2], False)]),
    ]
    assert planned.icalendar.count("BEGIN:VEVENT") == 2
    assert "@brand-2 https://social.example" in planned.icalendar
