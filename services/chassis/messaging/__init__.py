"""
Events over RabbitMQ: how a service's worker process hears of them and tells of its own.

`envelope` (what an event looks like on the wire) and `handling` (what is done with one) know no broker. `topology`,
`publisher`, `relay` and `dead_letters` know pika. `entrypoint`, `launcher` and `process` alone know nameko and
eventlet, so that nameko can be replaced by replacing these three.

A service's worker is a plain class::

    class Worker:
        name = "publishing"                       # the service's name, which is also its database schema

        def __init__(self, settings: PublishingSettings) -> None: ...    # optional; called once, at the start

        @event_handler(AccountBound)
        def on_account_bound(self, tx: Transaction, event: Event[AccountBound]) -> None: ...

        @every(3600)
        def purge(self, database: Database) -> None: ...

and starts, in the service's `__main__`, by::

    from services.chassis.messaging.launcher import run_worker
    run_worker("services.publishing.worker:Worker", "services.publishing.settings:PublishingSettings")

(`services.chassis.process.main` does it for all services.) Both are paths, because they are imported only after
the launcher has patched the standard library.

Not for commands or calls between services: those are gRPC. Not for work of minutes: a handler has 5 seconds.
"""

import warnings

# nameko 2 stands on eventlet, which advises against itself; docs/adr/0002 says why we accept it. The rest of what it
# says stays visible.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
