"""Freezes against senders: real transactions at once, and the network's own log."""

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from services.chassis.database import PLATFORM, Database, Tenant
from services.chassis.errors import ServiceError
from services.chassis.testing.databases import TemporaryDatabase
from services.publishing import store, usecases
from services.publishing.model.callers import Caller
from services.publishing.model.deliveries import Step
from services.publishing.model.freezes import InFlight, OnLift
from services.publishing.tests.fakes import ENTERPRISE, make_account
from services.publishing.tests.measure_freeze import freeze_under_load
from services.publishing.tests.test_usecases import POLICY, TENANT, bind, lease, publish

OTHER = "enterprises/other"
OWNER = Caller(f"{ENTERPRISE}/members/owner")


def freeze_all(database: Database) -> list[InFlight]:
    with database.transaction(TENANT) as tx:
        return usecases.create_freeze(
            tx, ENTERPRISE, ENTERPRISE, reason="x", on_lift=OnLift.SEND, expire_time=None, caller=OWNER
        )[1]


def test_freeze__sender_is_between_lease_and_commit__waits_and_lists_it(
    database: TemporaryDatabase, eventually: Callable[..., object]
) -> None:
    """What a sender is just making SENDING is either listed or not sent: the freeze waits for its commit."""
    bind(database, make_account(1))
    publish(database)
    listed: list[InFlight] = []
    with database.transaction(PLATFORM) as tx:
        (assignment,) = usecases.lease(tx, POLICY, 10)
        freezing = threading.Thread(target=lambda: listed.extend(freeze_all(database)))
        freezing.start()
        eventually(lambda: waiting(database), 10)
        assert not listed
    freezing.join(10)

    assert assignment.step is Step.SEND
    assert [(each.delivery, each.state) for each in listed] == [(assignment.delivery.name, "SENDING")]


def waiting(database: Database) -> bool:
    """Whether somebody waits for an advisory lock."""
    with database.transaction(PLATFORM) as tx:
        return bool(
            tx.execute("select 1 from pg_locks where locktype = 'advisory' and not granted").fetchall()
        )


def test_lease__freeze_is_being_set__takes_nothing_of_that_enterprise(database: TemporaryDatabase) -> None:
    """No sender waits for a freeze, nor overtakes it; other enterprises' posts go on."""
    other = make_account(2, enterprise=OTHER, name=f"{OTHER}/accounts/a2")
    bind(database, make_account(1), other)
    publish(database)
    with database.transaction(Tenant(OTHER)) as tx:
        draft = usecases.create_publication(
            tx, OTHER, text="Hi", variants=(), accounts=(), exclude_accounts=(), schedule_time=None
        )
        usecases.schedule_publication(tx, OTHER, draft.name, None)
        usecases.materialise(tx, OTHER, draft.name)

    with ExitStack() as stack:
        tx = stack.enter_context(database.transaction(TENANT))
        _, under_way = usecases.create_freeze(
            tx, ENTERPRISE, ENTERPRISE, reason="x", on_lift=OnLift.SEND, expire_time=None, caller=OWNER
        )
        meanwhile = lease(database)
    afterwards = lease(database)

    assert under_way == []
    assert [each.account.enterprise for each in meanwhile] == [OTHER]
    assert afterwards == []


def test_freeze__at_random_moments__nothing_begins_after_the_answer(
    make_database: Callable[..., TemporaryDatabase],
) -> None:
    """
    P7: by the network's log no send begins after the OK, but those that it lists; and all go out once it is lifted.

    Ten times as many: `make verify-accounts SIZE=full`, row 7.
    """
    figures = freeze_under_load(make_database("publishing"), accounts=12, freezes=20, seed=7)

    assert (figures.late, figures.left) == (0, 0)
    assert figures.in_flight > 0, "no freeze met a send: this proves nothing"
    assert max(figures.answers) < 1000
    assert max(figures.lasts) < 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "function", "wrong"),
    [
        ("services.publishing.store", "stop_sending", lambda _tx, _enterprise: None),
        ("services.publishing.store.deliveries", "join_sending", lambda _tx, enterprises: set(enterprises)),
        ("services.publishing.store", "frozen", lambda _tx, _deliveries: set()),
    ],
    ids=["freeze does not wait", "senders do not join", "in doubt, sent again"],
)
def test_freeze__wrong_on_purpose__is_noticed(
    make_database: Callable[..., TemporaryDatabase],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    function: str,
    wrong: Callable[..., object],
) -> None:
    """Without its lock, or with resends, the same measurement finds late sends: it can fail."""
    monkeypatch.setattr(sys.modules[module], function, wrong)

    figures = freeze_under_load(make_database("publishing"), accounts=12, freezes=60, seed=3, until_late=True)

    assert figures.late > 0


def test_freeze__sender_hangs_in_its_transaction__fails_and_changes_nothing(
    database: TemporaryDatabase,
) -> None:
    """Whoever pulls the brake hears within seconds that it did not hold, and not that it did."""
    bind(database, make_account(1))
    publish(database)
    with database.transaction(PLATFORM) as tx:
        usecases.lease(tx, POLICY, 10)
        with pytest.raises(ServiceError) as refused:
            freeze_all(database)

    with database.transaction(PLATFORM) as tx:
        assert store.count_frozen_accounts(tx) == 0
    assert refused.value.reason == "DATABASE_BUSY"
