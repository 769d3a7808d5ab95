"""The life of a worker process, after the launcher has patched the standard library."""

import json
import logging
import os
import signal
import sys
import threading
from functools import partial
from pkgutil import resolve_name
from types import FrameType
from typing import TYPE_CHECKING, Any

from eventlet import spawn_n
from nameko.runners import ServiceRunner

from services.chassis.database import Database
from services.chassis.logs import configure_logs, get_logger
from services.chassis.messaging import topology
from services.chassis.messaging.entrypoint import RUNTIME, Runtime
from services.chassis.messaging.launcher import Options
from services.chassis.messaging.publisher import Publisher
from services.chassis.messaging.relay import Relay
from services.chassis.readiness import Readiness
from services.chassis.telemetry import start_telemetry

if TYPE_CHECKING:
    from services.chassis.settings import ServiceSettings

STUCK = 70
"""The exit code of a process that found itself stuck."""

_OTHER_CONNECTIONS = 6  # for the relay, for jobs, and for the check of the database

_log = get_logger(__name__)


def serve(worker_path: str, settings_path: str, options: Options) -> int:
    """Run the worker until a signal ends it; returns the exit code. See `launcher.run_worker`."""
    settings: ServiceSettings = resolve_name(settings_path).load()
    worker_class: Any = resolve_name(worker_path)
    service: str = worker_class.name
    configure_logs(service, "worker", settings.log_level)
    # It tells each failed attempt to connect six times, with tracebacks; we tell it once.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    telemetry = start_telemetry(service, "worker", settings.metrics_port)
    database = Database(
        settings.database_url.get_secret_value(),
        schema=service,
        max_size=options.concurrency + _OTHER_CONNECTIONS,
    )
    amqp_url = settings.amqp_url.get_secret_value()
    declare = partial(topology.ensure_topology, amqp_url, worker_class)
    publisher = Publisher(amqp_url, prepare=declare)
    relay = Relay(database, publisher)
    stopping, consuming = threading.Event(), threading.Event()
    if not topology.subscriptions(worker_class):
        consuming.set()  # one that only relays has no consumer to wait for
    # What the broker does is known from the connections that are in use; a check of its own would be one more.
    readiness = Readiness(
        {"database": database.check, "broker": lambda: publisher.ready(0) and consuming.is_set()}
    )
    runtime = Runtime(
        worker=worker_class() if worker_class.__init__ is object.__init__ else worker_class(settings),
        amqp_url=amqp_url,
        declare=declare,
        database=database,
        publisher=publisher,
        stopping=stopping,
        concurrency=options.concurrency,
        heartbeat=options.heartbeat,
        retry_unit=options.retry_unit,
        consuming=consuming,
        progress=partial(_expect_progress, stopping, options.stuck),
    )
    runner = ServiceRunner({"AMQP_URI": amqp_url, RUNTIME: runtime})
    runner.add_service(worker_class)
    _watch_signals(runner, stopping, readiness, options.drain)

    telemetry.probes.ready_when(readiness.reason)
    readiness.start()
    publisher.start()
    relay.start()
    runner.start()
    _log.info("worker.started", metrics_port=telemetry.metrics_port)
    try:
        runner.wait()
    except Exception:  # noqa: BLE001 -- whatever ended a thread of the container; nameko has no class for it
        _log.exception("worker.failed")
        return 1
    relay.stop()
    publisher.stop()
    database.close()
    telemetry.shutdown()
    _log.info("worker.stopped")
    signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def _watch_signals(
    runner: ServiceRunner, stopping: threading.Event, readiness: Readiness, drain_seconds: float
) -> None:
    def drain() -> None:
        _log.info("worker.draining")
        readiness.stop()
        stopping.set()
        runner.stop()

    def on_terminate(_signal: int, _frame: FrameType | None) -> None:
        # Once: a second signal neither hastens nor prolongs the drain.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, drain_seconds)
        spawn_n(drain)

    def on_alarm(_signal: int, _frame: FrameType | None) -> None:
        # The timer is the kernel's: it also ends a process whose green threads do not run any more, or one
        # that holds the lock of the logs.
        draining = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        event = "worker.stopped_late" if draining else "worker.stuck"
        os.write(sys.stdout.fileno(), f"{json.dumps({'event': event, 'level': 'error'})}\n".encode())
        os._exit(1 if draining else STUCK)

    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_terminate)
    signal.signal(signal.SIGINT, on_terminate)


def _expect_progress(stopping: threading.Event, seconds: float) -> None:
    """Wind the watchdog up: without another call within `seconds`, the process ends."""
    if not stopping.is_set():
        signal.setitimer(signal.ITIMER_REAL, seconds)
