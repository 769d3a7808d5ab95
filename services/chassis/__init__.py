"""
What every service stands on: settings, logs, telemetry, errors, identity, calls, events, database.

Technical code only. No business noun, no service's stub and no flag lives here. `grpc` is imported by
`services.chassis.rpc` alone, `nameko` and `eventlet` by `services.chassis.messaging` alone, so that an api
process and a worker process can share the rest.
"""
