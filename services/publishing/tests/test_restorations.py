"""A database that is older than the network: the rules, and the use cases on a real database."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM
from services.chassis.testing.databases import TemporaryDatabase
from services.publishing import store, usecases
from services.publishing.model import deliveries
from services.publishing.model.accounts import AccountState
from services.publishing.model.deliveries import (
    FINAL,
    Delivery,
    DeliveryState,
    Doubt,
    Restoration,
    Step,
    Timeline,
)
from services.publishing.model.publications import PublicationState, may_have_gone_out
from services.publishing.tests.fakes import ENTERPRISE, NOON, make_account, make_delivery, make_publication
from services.publishing.tests.test_interactions import make_notification
from services.publishing.tests.test_usecases import (
    POLICY,
    TENANT,
    bind,
    lease,
    posted,
    publish,
    read_deliveries,
    receive,
    record,
    states,
)

HOUR = timedelta(hours=1)
LOST = Restoration(NOON + HOUR, NOON + 2 * HOUR)
"""Backed up an hour after the tests begin, restored an hour later."""


def restore(database: TemporaryDatabase, clock: FixedClock) -> int:
    """Let it be the time after the restoration, and heed it; returns how many deliveries are in doubt."""
    clock.advance(LOST.until - clock.now())
    doubted = 0
    while True:
        with database.transaction(PLATFORM) as tx:
            more = usecases.restored(tx, LOST, 2)
        if not more:
            return doubted
        doubted += more


@pytest.mark.parametrize(
    ("delivery", "doubt"),
    [
        (make_delivery(), Doubt(LOST.since, LOST.until)),
        (make_delivery(due_time=LOST.until), Doubt(LOST.since, LOST.until)),
        (make_delivery(due_time=LOST.until + timedelta(microseconds=1)), None),
        (
            make_delivery(state=DeliveryState.SENDING, attempt_time=NOON),
            Doubt(NOON, LOST.until),
        ),
        (
            make_delivery(state=DeliveryState.UNCONFIRMED, doubt=Doubt(NOON, NOON, resend=False)),
            Doubt(NOON, LOST.until, resend=False),
        ),
        (
            make_delivery(doubt=Doubt(LOST.until, LOST.until + HOUR)),
            Doubt(LOST.since, LOST.until + HOUR),
        ),
        *((make_delivery(state=state), None) for state in FINAL),
    ],
)
def test_restored__is_in_doubt_if_it_may_have_been_sent(delivery: Delivery, doubt: Doubt | None) -> None:
    """What has ended stays so; what was not due cannot have been sent; an older doubt only grows."""
    assert deliveries.restored(delivery, LOST) == replace(delivery, doubt=doubt)


@pytest.mark.parametrize(
    ("made", "scheduled", "due", "expected"),
    [
        (NOON, NOON, NOON, True),
        (NOON, NOON, LOST.until, True),
        (NOON, NOON, LOST.until + HOUR, False),
        (NOON, LOST.until + HOUR, LOST.until + HOUR, True),  # a draft that somebody may have scheduled before
        (LOST.until + HOUR, LOST.until + HOUR, LOST.until + HOUR, False),
    ],
)
def test_may_have_gone_out__by_what_the_backup_holds(
    made: datetime, scheduled: datetime, due: datetime, *, expected: bool
) -> None:
    """Only what was made before the restoration can have gone out before it."""
    publication = make_publication(
        state=PublicationState.SCHEDULED, create_time=made, update_time=scheduled, schedule_time=due
    )

    assert may_have_gone_out(publication, LOST) is expected


@pytest.mark.parametrize("software", ["mastodon", "gotosocial"])
def test_restored__queued__is_looked_for_before_it_is_sent(
    database: TemporaryDatabase, clock: FixedClock, software: str
) -> None:
    """Whatever class the network is of: the key's life is over after an hour, so the timeline decides."""
    bind(database, make_account(1, software=software))
    first, second = publish(database, "First"), publish(database, "Second")

    doubted = restore(database, clock)

    assert doubted == 2
    assert states(database, first) == ["QUEUED"]
    assert lease(database) == []
    assert states(database, first) == ["UNCONFIRMED"]
    clock.advance(POLICY.visibility_lag)
    (lookup,) = lease(database)
    assert (lookup.step, lookup.delivery.attempts) == (Step.LOOK_UP, 0)
    with database.transaction(TENANT) as tx:
        usecases.record_lookup(tx, lookup, Timeline((), complete=True), tx.now, POLICY)
    assert (states(database, first), states(database, second)) == (["QUEUED"], ["QUEUED"])
    (sending,) = lease(database)
    assert (sending.step, sending.delivery.publication) == (Step.SEND, first.name)
    record(database, sending, posted())
    assert lease(database) == []
    assert states(database, second) == ["UNCONFIRMED"]


def test_restored__again__changes_nothing_more(database: TemporaryDatabase, clock: FixedClock) -> None:
    """The command may be repeated, also after it was interrupted."""
    bind(database, *(make_account(number) for number in (1, 2, 3)))
    publication = publish(database)

    assert restore(database, clock) == 3
    before = read_deliveries(database, publication)
    assert restore(database, clock) == 0

    assert read_deliveries(database, publication) == before


def test_restored__not_due_before__is_sent_at_its_time(
    database: TemporaryDatabase, clock: FixedClock
) -> None:
    """What was still to come needs no look."""
    bind(database, make_account(1))
    publish(database, schedule_time=LOST.until + HOUR)

    assert restore(database, clock) == 0

    clock.advance(HOUR)
    assert [each.step for each in lease(database)] == [Step.SEND]


def test_restored__sent_but_not_known__is_sent_again_under_its_key_while_it_lives(
    database: TemporaryDatabase, clock: FixedClock
) -> None:
    """Where keys are honoured, asking again is the answer; when the lost time is surely over."""
    bind(database, make_account(1))
    publication = publish(database)
    with database.transaction(PLATFORM) as tx:
        usecases.restored(tx, Restoration(NOON, NOON + POLICY.server_margin), 10)

    assert lease(database) == []
    assert lease(database) == []
    clock.advance(POLICY.server_margin)
    (again,) = lease(database)

    assert (again.step, again.delivery.publication) == (Step.SEND, publication.name)


def test_materialise__after_the_restoration__is_in_doubt_as_well(
    database: TemporaryDatabase, clock: FixedClock
) -> None:
    """What was scheduled in the backup, and what was a draft there, may have gone out; what is new has not."""
    bind(database, make_account(1))
    scheduled = publish(database, materialise=False)
    with database.transaction(TENANT) as tx:
        draft = usecases.create_publication(
            tx, ENTERPRISE, text="Draft", variants=(), accounts=(), exclude_accounts=(), schedule_time=None
        )
    restore(database, clock)
    clock.advance(timedelta(seconds=1))

    new = publish(database, "New")
    with database.transaction(TENANT) as tx:
        usecases.schedule_publication(tx, ENTERPRISE, draft.name, None)
        for name in (scheduled.name, draft.name):
            usecases.materialise(tx, ENTERPRISE, name)

    doubts = [read_deliveries(database, each)[0].doubt for each in (scheduled, draft, new)]
    assert doubts == [Doubt(LOST.since, LOST.until), Doubt(LOST.since, LOST.until), None]


def test_answer__to_what_was_asked_before_the_restoration__is_looked_for(
    database: TemporaryDatabase, clock: FixedClock
) -> None:
    """Somebody may have given the same answer, under a key that nobody knows any more; not to a newer question."""
    bind(database, make_account(1))
    restore(database, clock)
    clock.advance(HOUR)
    receive(
        database,
        make_account(1),
        [make_notification(), make_notification(network_id="n2", post_id="s2", time=clock.now())],
    )

    with database.transaction(TENANT) as tx:
        asked = sorted(store.interactions(tx, ENTERPRISE, None, 10), key=lambda each: each.interaction_time)
        answers = [usecases.answer_interaction(tx, ENTERPRISE, each.name, "Come!").answer for each in asked]
        doubts = [usecases.get_delivery(tx, ENTERPRISE, answer).doubt for answer in answers]

    assert doubts == [Doubt(LOST.since, LOST.until, resend=False), None]


def test_cancel__in_doubt__is_looked_for_first(database: TemporaryDatabase, clock: FixedClock) -> None:
    """What may be on the network cannot just be called cancelled."""
    bind(database, make_account(1))
    publication = publish(database)
    restore(database, clock)

    with database.transaction(TENANT) as tx:
        usecases.cancel_publication(tx, ENTERPRISE, publication.name)
    assert lease(database) == []
    clock.advance(POLICY.visibility_lag)
    (lookup,) = lease(database)
    assert lookup.step is Step.LOOK_UP
    with database.transaction(TENANT) as tx:
        usecases.record_lookup(tx, lookup, Timeline((), complete=True), tx.now, POLICY)

    assert states(database, publication) == ["CANCELLED"]


def test_lease__in_doubt_and_account_unbound__does_not_say_failed(
    database: TemporaryDatabase, clock: FixedClock
) -> None:
    """An account that cannot be read cannot tell: the delivery stays unknown."""
    bind(database, make_account(1))
    publication = publish(database)
    restore(database, clock)
    with database.transaction(TENANT) as tx:
        usecases.set_account_state(
            tx, ENTERPRISE, make_account(1).name, AccountState.REAUTH_REQUIRED, clock.now()
        )

    lease(database)

    assert states(database, publication) == ["UNCONFIRMED"]
