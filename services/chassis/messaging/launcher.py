"""
Starts a worker process: `python -m services.<service> worker` calls `run_worker` before it imports anything else.

SIGTERM drains: no more is consumed, what is in hand is finished and answered, and the process ends with 0. After
`Options.drain` seconds it ends in any case, with 1; what was in hand is then delivered again, to no second effect.

A consumer that shows no sign of life for `Options.stuck` seconds (a broker that accepts connections and says
nothing) ends the process with 70, for its supervisor to start it again. A broker that refuses is waited for.

Alive means that /healthz answers, which it does from a green thread; ready (/readyz), that broker and database are there.
A broker that falls silent with its connections open is noticed by their heartbeats, within 20 seconds.
"""

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class Options:
    """
    How a worker process behaves; the defaults are right but for tests.

    Attributes:
        concurrency: how many handlers run at once, and how many deliveries each handler has in hand. A process
            that dies takes so many with it; see `topology.DELIVERY_LIMIT`.
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
        worker: the path of the worker class, as `services.accounts.worker:Worker`. It is constructed once, with
            the settings if it has an `__init__`.
        settings: the path of the settings class, as `services.accounts.settings:AccountsSettings`.
        options: for tests.

    """
    # Before psycopg is imported: its own wait, in C, stops all green threads for the time of each query.
    os.environ["PSYCOPG_WAIT_FUNC"] = "wait_selector"  # noqa: TID251 -- written, not read
    import eventlet

    # Before all that opens sockets or makes locks is imported: it would keep the real, blocking ones.
    eventlet.monkey_patch()
    from services.chassis.messaging.process import serve

    sys.exit(serve(worker, settings, options or Options()))
