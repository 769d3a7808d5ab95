"""What publishing tells of itself moves with what is done."""

from datetime import timedelta

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.measures import counted, measured
from services.publishing import metrics, store, usecases
from services.publishing.model.callers import ITSELF
from services.publishing.model.deliveries import Posted, Refused
from services.publishing.model.freezes import OnLift
from services.publishing.tests.fakes import ENTERPRISE, make_account
from services.publishing.tests.test_interactions import make_notification
from services.publishing.tests.test_usecases import TENANT, bind, lease, posted, publish, receive, record


def read(database: TemporaryDatabase) -> dict[str, float]:
    """The gauges, as the worker reads them."""
    with database.transaction(PLATFORM) as tx:
        metrics.read(tx)
    return {
        "queued": measured("numerator_publishing_deliveries", state="QUEUED"),
        "sending": measured("numerator_publishing_deliveries", state="SENDING"),
        "oldest_due": measured("numerator_publishing_oldest_due_seconds"),
        "frozen": measured("numerator_publishing_accounts_frozen"),
        "held": measured("numerator_publishing_deliveries_held"),
        "new": measured("numerator_publishing_interactions_open", state="NEW"),
        "answering": measured("numerator_publishing_interactions_open", state="ANSWERING"),
    }


def test_deliveries__count_when_they_end(database: TemporaryDatabase) -> None:
    """Published and failed ones, with the reason; recorded twice they count once."""
    bind(database, make_account(1), make_account(2))
    publish(database)
    first, second = lease(database)
    name = "numerator_publishing_deliveries_ended_total"

    with (
        counted(1, name, state="PUBLISHED", reason=""),
        counted(1, name, state="FAILED", reason="TEXT_REJECTED"),
    ):
        for _ in range(2):
            record(database, first, posted(1))
            record(database, second, Refused("TEXT_REJECTED"))


def test_gauges__are_the_work_that_is_left(database: TemporaryDatabase, clock: FixedClock) -> None:
    """What is queued, for how long the oldest is due, what is being sent, and who waits for an answer."""
    nothing = dict.fromkeys(("queued", "sending", "oldest_due", "frozen", "held", "new", "answering"), 0)
    bind(database, make_account(1), make_account(2))
    publish(database)
    clock.advance(timedelta(seconds=90))
    waiting = read(database)
    for number, assignment in enumerate(lease(database), 1):
        sending = read(database)
        record(database, assignment, posted(number))
    receive(database, make_account(1), [make_notification()])

    assert waiting == {**nothing, "queued": 2, "oldest_due": 90}
    assert sending == {**nothing, "sending": 1}
    assert read(database) == {**nothing, "new": 1}


def test_gauges__frozen__are_not_the_work_that_is_left(
    database: TemporaryDatabase, clock: FixedClock
) -> None:
    """What a freeze holds is counted apart, and makes nothing look late."""
    bind(database, make_account(1), make_account(2))
    publish(database)
    publish(database, accounts=(make_account(1).name,))
    with database.transaction(TENANT) as tx:
        usecases.create_freeze(
            tx, ENTERPRISE, ENTERPRISE, reason="x", on_lift=OnLift.SEND, expire_time=None, caller=ITSELF
        )
    clock.advance(timedelta(seconds=90))

    found = read(database)

    assert (found["frozen"], found["held"], found["queued"], found["oldest_due"]) == (2, 3, 3, 0)


def test_answers__tell_how_long_a_person_waited(database: TemporaryDatabase, clock: FixedClock) -> None:
    """From the question to the answer's being published, in buckets for people."""
    name = "numerator_publishing_answer_duration_seconds"
    bind(database, make_account(1))
    receive(database, make_account(1), [make_notification()])
    with database.transaction(TENANT) as tx:
        (question,) = store.interactions(tx, ENTERPRISE, None, 10)
        usecases.answer_interaction(tx, ENTERPRISE, question.name, "Come and see")
    (assignment,) = lease(database)
    clock.advance(timedelta(minutes=4))
    answering = read(database)["answering"]

    with counted(1, f"{name}_bucket", le="300.0"), counted(0, f"{name}_bucket", le="1.0"):
        record(database, assignment, Posted("post1", "", clock.now()))

    assert answering == 1
    assert read(database)["answering"] == 0
