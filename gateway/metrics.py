"""What the gateway counts."""

from services.chassis.metrics import counter, duration, running

requests = duration("http.server.request.duration", "How long HTTP requests took.")
active = running("http.server.active_requests", "HTTP requests in progress; streams count.")
streams = running("numerator.gateway.streams", "Server-sent event streams that are open.")
admissions = counter("numerator.gateway.admissions", "Requests that needed an admission, by what came of it.")
limited = counter("numerator.gateway.limited", "Requests that were refused for being too many.")
refused = counter(
    "numerator.gateway.snapshot.refused", "Snapshots that were damaged, or nothing to serve from."
)
unreported = counter("numerator.gateway.usage.dropped", "Requests that analytics was not told of.")
