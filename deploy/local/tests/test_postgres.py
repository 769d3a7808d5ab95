import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from deploy.local.postgres import Postgres
from deploy.local.server import ServerError, alive, place_for


def test_start__answers_durably_and_not_as_root(postgres: Postgres) -> None:
    """A started server answers on TCP, writes through to the disk and does not run as root."""
    postgres.start()

    with psycopg.connect(postgres.url) as connection:
        row = connection.execute(
            "select current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('unix_socket_directories'), current_setting('server_version_num')::int / 10000"
        ).fetchone()
    process = postgres.process()
    assert row == ("on", "on", "", 18)
    assert process is not None
    assert process.uids().effective != 0


def test_start__wrong_password_is_refused(postgres: Postgres) -> None:
    """Nobody gets in without the password, not even from this machine."""
    postgres.start()

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url.replace(postgres.password(), "wrong"))


def test_stop__data_is_kept_and_nothing_runs(postgres: Postgres) -> None:
    """What was written is there after stop and start, and after a crash; a stopped server is gone."""
    postgres.start()
    process = postgres.process()
    assert process is not None
    family = [process, *process.children(recursive=True)]
    postgres.psql("-c", "create table kept (n int)", "-c", "insert into kept values (1)")

    postgres.stop()

    assert not postgres.running()
    assert not any(alive(each) for each in family)
    postgres.start()
    postgres.psql("-c", "insert into kept values (2)")
    postgres.crash()
    postgres.stop()
    postgres.start()
    assert postgres.psql("-c", "select sum(n) from kept") == "3"


def test_start__after_kill_the_stale_pid_file_does_not_count(postgres: Postgres) -> None:
    """After kill -9 the server counts as stopped although its pid file says `ready`, and starts again."""
    postgres.start()
    process = postgres.process()
    assert process is not None

    os.kill(process.pid, signal.SIGKILL)
    postgres.stop()

    assert postgres.pid_file().exists()
    assert not postgres.running()
    postgres.start()
    assert postgres.running()


def test_start__port_taken_is_an_error_with_the_log(postgres: Postgres) -> None:
    """A server that cannot start says why, and leaves nothing behind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", postgres.port))
        taken.listen()

        with pytest.raises(ServerError, match="Address already in use"):
            postgres.start(timeout=20)

    assert postgres.process() is None


SHARER = """
import sys
from pathlib import Path
from deploy.local.postgres import Postgres

with Postgres(Path(sys.argv[1]), int(sys.argv[2])).shared() as postgres:
    print(postgres.process().pid, flush=True)
    sys.stdin.readline()
"""


def test_shared__two_processes_at_once_get_one_server_and_the_last_stops_it(postgres: Postgres) -> None:
    """Two processes that start it at the same moment share one server; it ends with the second, not the first."""
    command = [sys.executable, "-c", SHARER, str(postgres.home), str(postgres.port)]
    users = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    pids = {user.stdout.readline() for user in users}
    assert len(pids) == 1

    users[0].communicate("done\n", timeout=20)
    assert postgres.running()
    users[1].communicate("done\n", timeout=20)

    assert postgres.process() is None
    assert [user.returncode for user in users] == [0, 0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another user")
def test_start__closed_checkout_falls_back_to_a_reachable_place(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a checkout that the server's user cannot enter, as below /root, programs and data are elsewhere."""
    monkeypatch.setattr("deploy.local.postgres.reachable", lambda _: False)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = Postgres(closed / "postgres", postgres.port)
    assert server.place == place_for(closed / "postgres")
    assert server.place.parent == Path("/var/lib/numerator")

    server.start()

    try:
        assert server.bin.is_relative_to(server.place)
        assert server.psql("-c", "select 1") == "1"
    finally:
        server.remove()
    assert not server.place.exists()
