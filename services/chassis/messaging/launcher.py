"""
Starts and stops a worker process: `python -m services.<service> worker` calls `run_worker` before it imports
anything.

SIGTERM drains: no more is consumed, what is in hand is finished and answered, and the process ends with 0.
After `DRAIN_SECONDS` it ends in any case, with 1; what was in hand is then delivered again, and has no second
effect.

A consumer that shows no sign of life for `STUCK_SECONDS` (a broker that accepts connections and says nothing)
ends the process with `STUCK`, for its supervisor to start it again. A broker that cannot be reached is waited
for.

Alive means that /metrics answers.
"""

import os
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from services.chassis.settings import ServiceSettings

STUCK = 70
"""The exit code of a process that found itself stuck."""


@dataclass(frozen=True, slots=True)
class Options:
    """
    How a worker process behaves; the defaults are right but for tests.

    Attributes:
        concurrency: how many handlers run at once, and how many deliveries wait per handler. One process that
        dies
            takes so many deliveries with it, each time; see `topology.DELIVERY_LIMIT`.
        heartbeat: of the consumer's connection, in seconds.
        stuck: seconds without a sign of life after which the process ends.
        drain: seconds after SIGTERM after which it ends in any case.
        retry_unit: what the delays of retries are multiples of.

    """

    concurrency: int = 10
    heartbeat: int = 10
    stuck: float = 90.0
    drain: float = 20.0
    retry_unit: timedelta = timedelta(seconds=1)


def run_worker(worker: str, settings: str, options: Options | None = None) -> NoReturn:
    """
    Run a service's worker until SIGTERM or SIGINT, then exit.

    Args:
        worker: the path of the worker class, as `services.accounts.worker:Worker`. It is constructed once,
        with the
            settings if its `__init__` takes them.
        settings: the path of the settings class, as `services.accounts.settings:AccountsSettings`.
        options: for tests.

    """
    # Before psycopg is imported: its own wait, in C, stops all green threads for the time of each query.
    os.environ["PSYCOPG_WAIT_FUNC"] = "wait_selector"  # noqa: TID251 -- written, not read
    import eventlet

    # Before anything else is imported: what is imported earlier keeps the real, blocking library.
    eventlet.monkey_patch()
    sys.exit(_serve(worker, settings, options or Options()))


def _serve(worker_path: str, settings_path: str, options: Options) -> int:
    import threading
    from functools import partial
    from pkgutil import resolve_name

    from eventlet import spawn_n
    from nameko.runners import ServiceRunner

    from services.chassis.database import Database
    from services.chassis.logs import configure_logs, get_logger
    from services.chassis.messaging import entrypoint, topology
    from services.chassis.messaging.publisher import Publisher
    from services.chassis.messaging.relay import Relay
    from services.chassis.telemetry import start_telemetry

    settings: ServiceSettings = resolve_name(settings_path).load()
    worker_class: Any = resolve_name(worker_path)
    service: str = worker_class.name
    configure_logs(service, "worker", settings.log_level)
    log = get_logger(__name__)
    telemetry = start_telemetry(service, "worker", settings.metrics_port)

    amqp_url = settings.amqp_url.get_secret_value()
    database = Database(
        settings.database_url.get_secret_value(), schema=service, max_size=options.concurrency + 5
    )
    declare = partial(topology.declare_topology, amqp_url, worker_class)
    publisher = Publisher(amqp_url, prepare=declare)
    relay = Relay(database, publisher)
    stopping = threading.Event()

    def still_alive() -> None:
        if not stopping.is_set():
            signal.setitimer(signal.ITIMER_REAL, options.stuck)

    runner = ServiceRunner(
        {
            "AMQP_URI": amqp_url,
            entrypoint.RUNTIME: entrypoint.Runtime(
                worker=_construct(worker_class, settings),
                amqp_url=amqp_url,
                declare=declare,
                database=database,
                publisher=publisher,
                stopping=stopping,
                concurrency=options.concurrency,
                heartbeat=options.heartbeat,
                retry_unit=options.retry_unit,
                progress=still_alive,
            ),
        }
    )
    runner.add_service(worker_class)

    def on_alarm(_signal: int, _frame: FrameType | None) -> None:
        # The timer is the kernel's, so it also ends a process whose green threads do not run any more.
        log.error("worker.stopped_late" if stopping.is_set() else "worker.stuck")
        sys.stdout.flush()
        os._exit(1 if stopping.is_set() else STUCK)

    def on_terminate(_signal: int, _frame: FrameType | None) -> None:
        if not stopping.is_set():
            signal.setitimer(signal.ITIMER_REAL, options.drain)
            spawn_n(stopping.set)

    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_terminate)
    signal.signal(signal.SIGINT, on_terminate)

    publisher.start()
    relay.start()
    runner.start()
    log.info("worker.started", metrics_port=telemetry.metrics_port)
    stopping.wait()
    log.info("worker.draining")
    runner.stop()
    relay.stop()
    publisher.stop()
    database.close()
    telemetry.shutdown()
    log.info("worker.stopped")
    return 0


def _construct(worker_class: Any, settings: "ServiceSettings") -> object:
    return worker_class() if worker_class.__init__ is object.__init__ else worker_class(settings)
