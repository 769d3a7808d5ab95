"""What the use of a database is measured by. Names are OpenTelemetry's, or begin with `numerator.`."""

from services.chassis.metrics import counter, duration, running

POOL = "db.client.connection.pool.name"
"""The attribute of all here: the schema."""

used = running(
    "db.client.connection.count", "Connections that transactions hold (db.client.connection.state is used)."
)
most = running("db.client.connection.max", "How many connections transactions may hold at once.")
wait = duration("db.client.connection.wait_time", "How long transactions waited for a connection.")
timeouts = counter("db.client.connection.timeouts", "Transactions that got no connection in time.")
