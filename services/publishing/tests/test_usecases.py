"""Use cases on a real database under row-level security."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Database, Tenant, Transaction
from services.chassis.errors import ServiceError
from services.chassis.testing.databases import TemporaryDatabase, assert_tenant_tables_safe
from services.publishing import store, usecases
from services.publishing.model.accounts import Account, AccountState
from services.publishing.model.deliveries import (
    Delivery,
    DeliveryState,
    NotRead,
    Policy,
    Posted,
    Postponed,
    Refused,
    Step,
    Timeline,
    TimelinePost,
    Unknown,
)
from services.publishing.model.interactions import InteractionKind, InteractionState
from services.publishing.model.publications import Publication, PublicationState, publication_state
from services.publishing.tests.fakes import ENTERPRISE, NOON, make_account
from services.publishing.tests.test_interactions import make_notification
from services.publishing.usecases import Assignment

POLICY = Policy()
TENANT = Tenant(ENTERPRISE)


def bind(database: Database, *accounts: Account) -> None:
    for account in accounts:
        with database.transaction(Tenant(account.enterprise)) as tx:
            usecases.bind_account(tx, account, NOON)


def publish(
    database: Database, text: str = "Hello", *, materialise: bool = True, **changes: Any
) -> Publication:
    """Create, schedule and materialise a publication."""
    values: dict[str, Any] = {
        "text": text, "variants": (), "accounts": (), "exclude_accounts": (), "schedule_time": None,
    }  # fmt: skip
    with database.transaction(TENANT) as tx:
        draft = usecases.create_publication(tx, ENTERPRISE, **(values | changes))
        scheduled = usecases.schedule_publication(tx, ENTERPRISE, draft.name, None)
    if materialise:
        with database.transaction(TENANT) as tx:
            usecases.materialise(tx, ENTERPRISE, draft.name)
    return scheduled


def lease(database: Database, limit: int = 50) -> list[Assignment]:
    with database.transaction(PLATFORM) as tx:
        return usecases.lease(tx, POLICY, limit)


def record(database: Database, assignment: Assignment, outcome: Any) -> Delivery | None:
    with database.transaction(TENANT) as tx:
        return usecases.record_attempt(tx, assignment, outcome, POLICY)


def read_deliveries(database: Database, publication: Publication) -> list[Delivery]:
    with database.transaction(TENANT) as tx:
        return store.deliveries(tx, ENTERPRISE, publication.name, "", 100)


def states(database: Database, publication: Publication) -> list[str]:
    return [delivery.state for delivery in read_deliveries(database, publication)]


def outbox(database: Database) -> list[str]:
    with database.transaction(PLATFORM) as tx:
        return [row["type"] for row in tx.execute("select type from outbox order by sequence")]


def posted(number: int = 1) -> Posted:
    return Posted(f"post{number}", f"https://example.social/post{number}", NOON)


def test_create_publication__of_another_enterprise_is_not_found(database: Database) -> None:
    """Whatever was checked before: nobody drafts for another enterprise."""
    with database.transaction(Tenant("enterprises/other")) as tx, pytest.raises(ServiceError) as refused:
        usecases.create_publication(
            tx,
            ENTERPRISE,
            text="Hello",
            variants=(),
            accounts=(),
            exclude_accounts=(),
            schedule_time=None,
        )

    assert refused.value.reason == "NOT_FOUND"


def test_tables__all__are_under_row_level_security(database: TemporaryDatabase) -> None:
    """No table can show one enterprise's rows to another."""
    assert_tenant_tables_safe(database)


def test_materialise__twice__makes_each_delivery_once(database: TemporaryDatabase) -> None:
    """The event may come again: the deliveries are the same, and nobody hears of them again."""
    bind(database, *(make_account(number) for number in (1, 2)))
    publication = publish(database)

    with database.transaction(TENANT) as tx:
        made_again = usecases.materialise(tx, ENTERPRISE, publication.name)
        changes = tx.changes(usecases.DELIVERIES, after=0)

    assert made_again == 0
    assert states(database, publication) == ["QUEUED", "QUEUED"]
    assert len(changes) == 2
    assert outbox(database) == ["publishing.publication.scheduled"]


def test_materialise__other_tenants__sees_nothing(database: TemporaryDatabase) -> None:
    """Another enterprise's transaction finds no publication."""
    bind(database, make_account(1))
    publication = publish(database, materialise=False)

    with database.transaction(Tenant("enterprises/other")) as tx:
        assert usecases.materialise(tx, ENTERPRISE, publication.name) == 0
        with pytest.raises(ServiceError):
            usecases.get_publication(tx, ENTERPRISE, publication.name)


def test_lease__due_deliveries__are_on_record_as_sending(database: TemporaryDatabase) -> None:
    """When the lease has committed, state, attempt and fence are there for whoever finds us dead."""
    bind(database, make_account(1))
    publication = publish(database)

    (assignment,) = lease(database)

    (delivery,) = read_deliveries(database, publication)
    assert (delivery.state, delivery.fence, delivery.attempts) == (DeliveryState.SENDING, 1, 1)
    assert delivery.lease_until == NOON + POLICY.request_timeout + POLICY.lease_margin
    assert assignment.delivery == delivery
    with database.transaction(TENANT) as tx:
        attempts = tx.execute("select fence, step, end_time from attempts").fetchall()
    assert attempts == [{"fence": 1, "step": "SEND", "end_time": None}]
    assert lease(database) == []


def test_lease__not_due__is_never_early(database: TemporaryDatabase, clock: FixedClock) -> None:
    """Not a moment before its time."""
    bind(database, make_account(1))
    publish(database, schedule_time=NOON + timedelta(minutes=5))

    clock.advance(timedelta(minutes=5) - timedelta(microseconds=1))
    early = lease(database)
    with database.transaction(PLATFORM) as tx:
        due = store.next_due(tx)
    clock.advance(timedelta(microseconds=1))

    assert early == []
    assert due == NOON + timedelta(minutes=5)
    assert len(lease(database)) == 1


def test_lease__one_account__goes_in_order_and_one_by_one(
    database: TemporaryDatabase, clock: FixedClock
) -> None:
    """The second post of an account waits until the first has ended; the other account does not."""
    bind(database, make_account(1), make_account(2))
    only_first = (make_account(1).name,)
    first, second, other = (
        publish(database, "First", accounts=only_first),
        publish(database, "Second", accounts=only_first),
        publish(database, "Other", accounts=(make_account(2).name,)),
    )

    batch = lease(database)
    assert {each.delivery.publication for each in batch} == {first.name, other.name}
    (sending,) = [each for each in batch if each.delivery.publication == first.name]
    record(database, sending, Unknown("NO_REPLY"))
    assert lease(database) == []  # the unknown one holds the line of its account

    clock.advance(POLICY.server_margin + POLICY.first_delay)
    (again,) = lease(database)
    assert (again.step, again.delivery.publication) == (Step.SEND, first.name)
    record(database, again, posted())
    (next_one,) = lease(database)
    assert next_one.delivery.publication == second.name


def test_lease__head_has_to_wait__keeps_the_order(database: TemporaryDatabase, clock: FixedClock) -> None:
    """A post that a network asked to send later is not overtaken by the next one of its account."""
    bind(database, make_account(1))
    first, _second = publish(database, "First"), publish(database, "Second")

    (sending,) = lease(database)
    record(database, sending, Postponed("RATE_LIMITED", NOON + timedelta(minutes=5)))
    assert states(database, first) == ["QUEUED"]
    assert lease(database) == []
    clock.advance(timedelta(minutes=5))

    (again,) = lease(database)
    assert again.delivery.publication == first.name
    assert again.delivery.key == sending.delivery.key


def test_lease__many_senders_at_once__never_share(database: TemporaryDatabase) -> None:
    """Eight senders take from the same lines: each delivery once, and never two of one account."""
    bind(database, *(make_account(number) for number in range(1, 13)))
    for number in range(3):
        publish(database, f"Post {number}")
    taken: list[Assignment] = []
    begin = threading.Barrier(8)

    def take() -> None:
        begin.wait()
        for _ in range(4):
            taken.extend(lease(database, 3))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    taken_accounts = [each.account.name for each in taken]
    assert sorted(taken_accounts) == sorted(make_account(number).name for number in range(1, 13))


def test_database__two_under_way_on_one_account__is_impossible(database: TemporaryDatabase) -> None:
    """Even a wrong sender cannot put two posts of one account under way."""
    bind(database, make_account(1))
    publish(database, "First")
    publish(database, "Second")

    with pytest.raises(psycopg.errors.UniqueViolation), database.transaction(TENANT) as tx:
        tx.execute("update deliveries set state = 'SENDING'")


def test_lease__sender_died__is_unconfirmed(database: TemporaryDatabase, clock: FixedClock) -> None:
    """SENDING under an expired lease: nobody knows how far it came, and the late outcome of the dead one is void."""
    bind(database, make_account(1, software="gotosocial"))
    publication = publish(database)
    (dead,) = lease(database)

    clock.advance(POLICY.request_timeout + POLICY.lease_margin + timedelta(seconds=1))
    (lookup,) = lease(database)

    assert lookup.step is Step.LOOK_UP
    assert states(database, publication) == ["UNCONFIRMED"]
    assert outbox(database)[-1] == "publishing.delivery.unconfirmed"
    assert record(database, dead, posted()) is None
    assert states(database, publication) == ["UNCONFIRMED"]


def test_record_lookup__found__claims_the_post(database: TemporaryDatabase, clock: FixedClock) -> None:
    """The same text twice: the second delivery does not take the first one's post for its own."""
    bind(database, make_account(1, software="gotosocial"))
    first, second = publish(database, "Same"), publish(database, "Same")
    (sending,) = lease(database)
    record(database, sending, posted(1))
    (sending,) = lease(database)
    record(database, sending, Unknown("NO_REPLY"))
    clock.advance(POLICY.server_margin + POLICY.visibility_lag)
    (lookup,) = lease(database)
    one = TimelinePost("post1", "", NOON, "Same", "")
    two = TimelinePost("post2", "", NOON, "Same", "")

    with database.transaction(TENANT) as tx:
        unsure = usecases.record_lookup(tx, lookup, Timeline((one,), complete=False), tx.now, POLICY)
    clock.advance(timedelta(minutes=1))
    (lookup,) = lease(database)
    with database.transaction(TENANT) as tx:
        found = usecases.record_lookup(tx, lookup, Timeline((two, one), complete=True), tx.now, POLICY)

    assert unsure is not None
    assert (unsure.state, unsure.reason) == (DeliveryState.UNCONFIRMED, "TIMELINE_INCOMPLETE")
    assert found is not None
    assert (found.state, found.network_post_id) == (DeliveryState.PUBLISHED, "post2")
    assert states(database, first) == states(database, second) == ["PUBLISHED"]


def test_record_lookup__surely_absent__is_sent_again(database: TemporaryDatabase, clock: FixedClock) -> None:
    """Only when server and timeline had their time is absence believed, and then the same key is used."""
    bind(database, make_account(1, software="gotosocial"))
    publication = publish(database)
    (sending,) = lease(database)
    record(database, sending, Unknown("NO_REPLY"))
    empty = Timeline((), complete=True)

    clock.advance(timedelta(seconds=1))
    (lookup,) = lease(database)
    with database.transaction(TENANT) as tx:
        usecases.record_lookup(tx, lookup, empty, tx.now, POLICY)
    assert states(database, publication) == ["UNCONFIRMED"]
    clock.advance(POLICY.server_margin + POLICY.visibility_lag)
    (lookup,) = lease(database)
    with database.transaction(TENANT) as tx:
        usecases.record_lookup(tx, lookup, empty, tx.now, POLICY)
    assert states(database, publication) == ["QUEUED"]

    (again,) = lease(database)
    assert (again.step, again.delivery.key) == (Step.SEND, sending.delivery.key)


def test_record_attempt__published__tells_once(database: TemporaryDatabase) -> None:
    """Outcome, event and change are of one transaction; recording again changes nothing."""
    bind(database, make_account(1))
    publication = publish(database)
    (sending,) = lease(database)

    first, again = record(database, sending, posted()), record(database, sending, posted())

    (delivery,) = read_deliveries(database, publication)
    assert first == delivery
    assert again is None
    assert (delivery.network_post_id, delivery.publish_time) == ("post1", NOON)
    assert outbox(database) == ["publishing.publication.scheduled", "publishing.delivery.published"]
    with database.transaction(TENANT) as tx:
        assert publication_state(usecases.get_publication(tx, ENTERPRISE, publication.name)) is (
            PublicationState.DONE
        )


def test_record_attempt__token_refused__stops_this_account_only(
    database: TemporaryDatabase, clock: FixedClock
) -> None:
    """Later posts of the account fail with the reason; the other account goes on; a new binding heals it."""
    bind(database, make_account(1), make_account(2))
    publication = publish(database)
    refused, _other = sorted(lease(database), key=lambda each: each.account.name)

    record(database, refused, Refused("REAUTH_REQUIRED"))
    later = publish(database, "Later", accounts=(make_account(2).name,))

    assert states(database, publication) == ["FAILED", "SENDING"]
    with database.transaction(TENANT) as tx:
        assert [each.state for each in store.accounts(tx, ENTERPRISE)] == [
            AccountState.REAUTH_REQUIRED, AccountState.ACTIVE,
        ]  # fmt: skip
    assert states(database, later) == ["QUEUED"]
    bind(database, make_account(1, sealed_token=b"new"))
    with database.transaction(TENANT) as tx:
        usecases.suspend_account(tx, make_account(1))  # somebody still has the old token in hand
        assert store.accounts(tx, ENTERPRISE)[0].state is AccountState.ACTIVE
    assert outbox(database).count("publishing.account.token_refused") == 1


def test_suspend_account__noticed_again_and_again__is_told_once(database: TemporaryDatabase) -> None:
    """A refusal while reading tells accounts as well as one while posting: nothing may be posted for weeks."""
    bind(database, make_account(1))
    for _ in range(2):
        with database.transaction(TENANT) as tx:
            usecases.suspend_account(tx, make_account(1))
    assert outbox(database) == ["publishing.account.token_refused"]


def test_lease__account_unbound__fails_what_is_due(database: TemporaryDatabase) -> None:
    """What was scheduled for an account that is gone does not wait for ever."""
    bind(database, make_account(1))
    publication = publish(database)
    with database.transaction(TENANT) as tx:
        usecases.set_account_state(tx, ENTERPRISE, make_account(1).name, AccountState.UNBOUND, NOON)

    assert lease(database) == []

    (delivery,) = read_deliveries(database, publication)
    assert (delivery.state, delivery.reason) == (DeliveryState.FAILED, "ACCOUNT_NOT_BOUND")
    with database.transaction(TENANT) as tx:
        assert store.accounts(tx, ENTERPRISE)[0].sealed_token == b""


def test_bind_account__older_event_later__changes_nothing(database: TemporaryDatabase) -> None:
    """Events that overtook each other leave the account as the newest says."""
    bind(database, make_account(1))
    with database.transaction(TENANT) as tx:
        usecases.set_account_state(
            tx, ENTERPRISE, make_account(1).name, AccountState.UNBOUND, NOON + timedelta(seconds=1)
        )
        usecases.bind_account(tx, make_account(1), NOON)
        assert store.accounts(tx, ENTERPRISE)[0].state is AccountState.UNBOUND


@pytest.mark.parametrize("unknown", [True, False])
def test_cancel__at_any_moment__nothing_is_sent_afterwards(
    database: TemporaryDatabase, clock: FixedClock, unknown: bool
) -> None:
    """What waits ends at once; what is in doubt is looked up, and ends as what is found."""
    bind(database, make_account(1), make_account(2))
    publication = publish(database)
    (sending,) = lease(database, 1)
    if unknown:
        record(database, sending, Unknown("NO_REPLY"))

    with database.transaction(TENANT) as tx:
        cancelled = usecases.cancel_publication(tx, ENTERPRISE, publication.name)

    assert cancelled.state is PublicationState.CANCELLED
    assert set(states(database, publication)) == {"UNCONFIRMED" if unknown else "SENDING", "CANCELLED"}
    clock.advance(timedelta(minutes=2))
    (lookup,) = lease(database)
    assert lookup.step is Step.LOOK_UP  # although the network honours keys
    with database.transaction(TENANT) as tx:
        usecases.record_lookup(tx, lookup, Timeline((), complete=True), tx.now, POLICY)
    assert states(database, publication) == ["CANCELLED", "CANCELLED"]
    assert lease(database) == []


def test_cancel__before_materialising__makes_no_delivery(database: TemporaryDatabase) -> None:
    """The event finds a cancelled publication."""
    bind(database, make_account(1))
    publication = publish(database, materialise=False)

    with database.transaction(TENANT) as tx:
        usecases.cancel_publication(tx, ENTERPRISE, publication.name)
        usecases.materialise(tx, ENTERPRISE, publication.name)

    assert states(database, publication) == []


def test_lease__timeline_not_readable__tries_later(database: TemporaryDatabase, clock: FixedClock) -> None:
    """An unknown outcome stays unknown while the network is away; nothing is sent meanwhile."""
    bind(database, make_account(1, software="gotosocial"))
    publication = publish(database)
    (sending,) = lease(database)
    record(database, sending, Unknown("NO_REPLY"))

    for _ in range(5):
        clock.advance(POLICY.longest_delay)
        (lookup,) = lease(database)
        assert lookup.step is Step.LOOK_UP
        with database.transaction(TENANT) as tx:
            usecases.record_lookup(tx, lookup, NotRead("UNREACHABLE"), tx.now, POLICY)

    assert states(database, publication) == ["UNCONFIRMED"]


def receive(database: Database, account: Account, notifications: Sequence[Any], cursor: str = "n1") -> int:
    with database.transaction(TENANT) as tx:
        return usecases.record_notifications(tx, account, notifications, "", cursor)


def test_record_notifications__again__is_kept_once(database: TemporaryDatabase) -> None:
    """The network tells again what it told before; one interaction, one event."""
    bind(database, make_account(1))

    first = receive(database, make_account(1), [make_notification()])
    again = receive(database, make_account(1), [make_notification(), make_notification(network_id="n9")])

    assert (first, again) == (1, 0)
    assert outbox(database) == ["publishing.interaction.received"]
    with database.transaction(PLATFORM) as tx:
        body = tx.execute("select body from outbox").fetchall()[0]["body"]
        assert b"How much" not in body
        assert usecases.lease_polls(tx, ["weibo"], timedelta(seconds=30), 10) == []
        (polled,) = usecases.lease_polls(tx, ["weibo", "mastodon"], timedelta(seconds=30), 10)
        assert polled[1] == "n1"
        assert usecases.lease_polls(tx, ["mastodon"], timedelta(seconds=30), 10) == []


def test_record_notifications__before_the_outcome__is_linked_later(database: TemporaryDatabase) -> None:
    """People may answer before we know that our post is there."""
    bind(database, make_account(1))
    publish(database)
    (sending,) = lease(database)
    receive(database, make_account(1), [make_notification(answered_post_id="post1")])

    record(database, sending, posted(1))
    receive(
        database,
        make_account(1),
        [make_notification(network_id="n2", post_id="s2", answered_post_id="post1")],
    )

    with database.transaction(TENANT) as tx:
        linked = {each.delivery for each in store.interactions(tx, ENTERPRISE, None, 10)}
    assert linked == {sending.delivery.name}


@pytest.mark.parametrize(
    ("outcome", "state", "event"),
    [
        (posted(7), InteractionState.ANSWERED, "publishing.interaction.answered"),
        (Refused("REJECTED_CONTENT"), InteractionState.NEW, "publishing.delivery.failed"),
    ],
)
def test_answer__delivered_or_not__moves_the_interaction(
    database: TemporaryDatabase, outcome: Any, state: InteractionState, event: str
) -> None:
    """An answer goes the way of every delivery; a failed one leaves the question open."""
    bind(database, make_account(1))
    receive(database, make_account(1), [make_notification()])
    with database.transaction(TENANT) as tx:
        (question,) = store.interactions(tx, ENTERPRISE, None, 10)
        answering = usecases.answer_interaction(tx, ENTERPRISE, question.name, "Come and see")

    (assignment,) = lease(database)
    assert (assignment.delivery.in_reply_to, assignment.delivery.text) == ("s1", "@lina Come and see")
    assert assignment.delivery.name == answering.answer
    record(database, assignment, outcome)

    with database.transaction(TENANT) as tx:
        after = usecases.get_interaction(tx, ENTERPRISE, question.name)
        assert store.publications(tx, ENTERPRISE, None, 10) == []
    assert (question.kind, after.state) == (InteractionKind.COMMENT, state)
    assert outbox(database)[-1] == event


def test_watch__sequence__grows_with_each_change(database: TemporaryDatabase) -> None:
    """Followers see each change of state once, in order."""
    bind(database, make_account(1))
    publish(database)
    (sending,) = lease(database)
    record(database, sending, posted())

    with database.transaction(TENANT) as tx:
        changes = tx.changes(usecases.DELIVERIES, after=0)

    assert [change.key for change in changes] == [sending.delivery.name] * 3
    assert all(change.enterprise == ENTERPRISE for change in changes)


def test_transaction__rolled_back__tells_nothing(database: TemporaryDatabase) -> None:
    """An outcome that was not committed has no event."""
    bind(database, make_account(1))
    publication = publish(database)
    (sending,) = lease(database)

    class CrashError(Exception):
        pass

    def crash(tx: Transaction) -> None:
        usecases.record_attempt(tx, sending, posted(), POLICY)
        raise CrashError

    with pytest.raises(CrashError), database.transaction(TENANT) as tx:
        crash(tx)

    assert states(database, publication) == ["SENDING"]
    assert outbox(database) == ["publishing.publication.scheduled"]
