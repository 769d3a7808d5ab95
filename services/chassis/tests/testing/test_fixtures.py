"""The fixtures themselves: a test that waits wrongly or a server left behind would cost every other test."""

import itertools
import signal
import socket
import subprocess
import sys

import psutil
import psycopg
import pytest

from services.chassis.database import PLATFORM
from services.chassis.testing.servers import ROOT, Servers, free_ports


def test_eventually__gives_the_first_true_value(eventually):
    """The predicate is asked until it is true."""
    numbers = itertools.count(-3)
    assert eventually(lambda: max(0, next(numbers))) == 1


def test_eventually__fails_in_time_and_says_why(eventually):
    """What never becomes true fails, with the last value."""
    with pytest.raises(AssertionError, match=r"0\.1 s, but still \[\]"):
        eventually(list, timeout=0.1)


def test_free_ports__are_different_and_free():
    """Each port can be listened on."""
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_make_database__is_fresh_each_time(make_database, tmp_path):
    """What one test writes the next does not see."""
    for _ in range(2):
        database = make_database("sample", tmp_path)
        with database.transaction(PLATFORM) as tx:
            assert tx.execute("select count(*) as n from inbox").fetchone() == {"n": 0}
            assert tx.record_event("h", "e")


def test_clock__stands_still(clock):
    """The clock of tests is moved by tests only."""
    assert clock.now() == clock.now()


def test_servers__of_a_killed_run_are_removed_by_the_next(tmp_path, eventually):
    """A run that was killed leaves a PostgreSQL behind; the next run stops it and removes its files."""
    tmp_path.chmod(0o755)
    program = f"""
import os, signal
from pathlib import Path
from services.chassis.testing.servers import Servers
print(Servers(Path({str(tmp_path)!r})).postgres().url, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (left,) = tmp_path.iterdir()
    assert not psutil.pid_exists(int(left.name))
    url = killed.stdout.strip()
    psycopg.connect(url).close()

    Servers(tmp_path)

    assert list(tmp_path.iterdir()) == []
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(url)
