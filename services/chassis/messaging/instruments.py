"""The counters and spans of messaging. Names are OpenTelemetry's, or begin with `numerator.`."""

from opentelemetry import metrics, trace

_meter = metrics.get_meter("numerator.messaging")

tracer = trace.get_tracer("numerator.messaging")

SYSTEM = {"messaging.system": "rabbitmq"}
"""An attribute of everything here."""

sent = _meter.create_counter(
    "messaging.client.sent.messages",
    "{message}",
    "Events that the broker confirmed, or did not (error.type).",
)
consumed = _meter.create_counter("messaging.client.consumed.messages", "{message}", "Deliveries to handlers.")
duration = _meter.create_histogram(
    "messaging.process.duration", "s", "How long handlers take, their transaction included."
)
retried = _meter.create_counter(
    "numerator.messaging.retries", "{message}", "Deliveries that will be tried again later."
)
dead_lettered = _meter.create_counter(
    "numerator.messaging.dead_letters", "{message}", "Deliveries that were given up, by numerator.reason."
)
