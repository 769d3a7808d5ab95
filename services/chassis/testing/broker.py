"""The exchange of events, as the other services use it."""

from datetime import UTC, datetime

import pika
from google.protobuf.message import Message

from services.chassis.events import encode, event_type
from services.chassis.ids import new_id
from services.chassis.messaging.envelope import make_headers

_EXCHANGE = "numerator.events"


class Broker:
    """
    Tells events to a service, and hears what it tells. Made after its `migrate`, which declares the exchange.

    Args:
        connection: to the broker; the caller closes it.
        service: whose events are heard.

    """

    def __init__(self, connection: pika.BlockingConnection, service: str) -> None:
        self._channel = connection.channel()
        self._channel.confirm_delivery()
        self._queue = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.queue_bind(self._queue, _EXCHANGE, f"{service}.#")

    def tell(
        self,
        message: Message,
        enterprise: str | None,
        *,
        subject: str = "test",
        time: datetime | None = None,
        event_id: str = "",
    ) -> None:
        """Tell an event, now and with a new id unless given; fails when no queue takes it."""
        content_type, body = encode(message)
        headers = make_headers(
            event_id=event_id or new_id(),
            event_type=event_type(type(message)),
            source="test",
            subject=subject,
            ordering_key=subject,
            time=time or datetime.now(UTC),
            enterprise=enterprise,
            traceparent="",
        )
        properties = pika.BasicProperties(content_type=content_type, headers=headers, delivery_mode=2)
        self._channel.basic_publish(_EXCHANGE, event_type(type(message)), body, properties, mandatory=True)

    def heard(self) -> list[str]:
        """The types of the events that the service has told since the last look."""
        types = []
        while (method := self._channel.basic_get(self._queue, auto_ack=True)[0]) is not None:
            types.append(method.routing_key)
        return types
