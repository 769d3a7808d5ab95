"""A broker with the services' users and rights."""

from collections.abc import Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from deploy.rabbitmq.tests.helpers import Broker, running_broker
from services.chassis.tests.messaging.conftest import database, start_worker  # noqa: F401 -- fixtures


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """The broker of these tests, as the services of this version want it."""
    with running_broker("rabbitmq") as broker:
        yield broker


@pytest.fixture
def admin(broker: Broker) -> Iterator[BlockingChannel]:
    """A channel of the administrator's, with confirms."""
    with pika.BlockingConnection(pika.URLParameters(broker.server.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
