"""The database in a worker: eventlet's green threads must go on while one of them waits for PostgreSQL (PG-5)."""

import json
import subprocess
import sys

WORKER = """
import eventlet
eventlet.monkey_patch()
import json, sys, threading, time
from services.chassis.database import PLATFORM, Database, Follower

database = Database(sys.argv[1], schema="sample", max_size=4)
ticks = 0

def tick():
    global ticks
    while True:
        eventlet.sleep(0.05)
        ticks += 1

def query(seconds):
    with database.transaction(PLATFORM) as tx:
        tx.execute("select pg_sleep(%s)", (seconds,))

database.check()
ticker = eventlet.spawn(tick)
started = time.monotonic()
# Eight on four connections: each half second, so one second in all; the pool's waiting gives way as well.
for thread in [eventlet.spawn(query, 0.5) for _ in range(8)]:
    thread.wait()
elapsed = time.monotonic() - started
during = ticks

got = []
follower = Follower(database, "log", got.extend)
follower.start()
with database.transaction(PLATFORM) as tx:
    last = tx.append_change("log", "a", {})
caught_up = follower.caught_up(last, 5)
try:
    with database.transaction(PLATFORM) as tx:
        with eventlet.Timeout(0.2):
            tx.execute("select pg_sleep(3)")
except eventlet.Timeout:
    pass
database.check()
follower.stop()
database.close()
ticker.kill()
print(json.dumps({"elapsed": elapsed, "ticks": during, "caught_up": caught_up}))
"""


def run(database, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKER, database.url],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_eventlet__green_threads_go_on(database):
    """With the launcher's setting: queries run side by side, the clock ticks, a follower follows, a timeout ends."""
    result = run(database, PSYCOPG_WAIT_FUNC="wait_selector")

    assert result["elapsed"] < 2
    assert result["ticks"] >= 12
    assert result["caught_up"]


def test_eventlet__stands_still_without_the_setting(database):
    """The control: psycopg's own way of waiting stops all green threads."""
    result = run(database, PSYCOPG_WAIT_FUNC="wait_c")

    assert result["elapsed"] > 3
    assert result["ticks"] < 12
