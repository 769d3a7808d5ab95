"""The counters and spans of messaging. Names are OpenTelemetry's, or begin with `numerator.`."""

from opentelemetry import trace

from services.chassis.metrics import counter, duration

tracer = trace.get_tracer("numerator.messaging")

SYSTEM = {"messaging.system": "rabbitmq"}
"""An attribute of everything here."""

sent = counter("messaging.client.sent.messages", "Events that the broker confirmed, or did not (error.type).")
consumed = counter("messaging.client.consumed.messages", "Deliveries to handlers.")
process_duration = duration(
    "messaging.process.duration", "How long handlers take, their transaction included."
)
duplicates = counter("numerator.messaging.duplicates", "Deliveries whose event had its effect before.")
retried = counter("numerator.messaging.retries", "Deliveries that will be tried again later.")
dead_lettered = counter(
    "numerator.messaging.dead_letters", "Deliveries that were given up, by numerator.reason."
)
