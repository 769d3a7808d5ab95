"""A broker that lost its disk is whole again from its definitions, and its messages from the outboxes."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from numerator.events.v1.accounts_pb2 import AccountUnbound

from deploy.rabbitmq.drift import differences
from deploy.rabbitmq.tests.helpers import Broker, running_broker
from services.accounts.worker import Worker as AccountsWorker
from services.chassis.database import PLATFORM, retell
from services.chassis.messaging import topology
from services.chassis.messaging.publisher import Publisher
from services.chassis.messaging.relay import Relay
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.tests.messaging.helpers import UNBOUND, Sample
from services.chassis.tests.messaging.helpers import Broker as Looker
from services.chassis.tests.messaging.sample import Worker as SampleWorker


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker of the sample service's and accounts' own."""
    with running_broker("lost-disk", [AccountsWorker, SampleWorker]) as broker:
        yield broker


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_lost_disk__every_event_has_its_effect_once(
    broker: Broker,
    database: Sample,
    make_database: Callable[..., TemporaryDatabase],
    start_worker: Callable[..., object],
    eventually,
) -> None:
    """20 events were handled and 30 waited when the disk was lost: told anew, all 50 have had their effect once."""
    accounts = make_database("accounts")
    prepare = partial(topology.ensure_topology, broker.url("accounts"), AccountsWorker)
    publisher = Publisher(broker.url("accounts"), prepare=prepare)
    relay = Relay(accounts, publisher)
    publisher.start()

    def tell(count: int) -> list[str]:
        with accounts.transaction(PLATFORM) as tx:
            told = [tx.emit(AccountUnbound(account="a"), subject=f"s/{n % 5}") for n in range(count)]
        assert publisher.ready(30)
        assert relay.relay_once() == count
        return told

    with accounts.transaction(PLATFORM) as tx:
        begin = tx.now
    worker = start_worker(broker.url("sample"))
    handled = tell(20)
    eventually(lambda: len(database.effects()) == 20)
    assert worker.terminate() == 0
    waiting = tell(30)
    looker = Looker(broker.server.url)
    assert looker.length(UNBOUND) == 30

    broker.lose_disk()

    assert differences(broker.definitions, broker.found()) == []
    assert looker.length(UNBOUND) == 0
    with accounts.transaction(PLATFORM) as tx:
        assert retell(tx, begin) == 50
    start_worker(broker.url("sample"))
    assert publisher.ready(30)
    assert relay.relay_once() == 50
    eventually(lambda: len(database.effects()) == 50)
    eventually(lambda: looker.length(UNBOUND) == 0)
    for number in range(5):
        effects = database.query(
            "select event_id from effects where subject = %s order by number", f"s/{number}"
        )
        assert effects == handled[number::5] + waiting[number::5], "once, and in their order"
    publisher.stop()
