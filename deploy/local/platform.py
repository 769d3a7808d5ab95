"""
The whole platform in one folder: start it, watch it, break it, stop it.

    with Platform(Path(".local/e2e"), port_base=7600).running() as platform:
        ...  # platform.url("gateway"), platform.kill("publishing-sender"), platform.restart("rabbitmq")
"""

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self

import psutil

from deploy.local.keys import Keys
from deploy.local.postgres import Postgres
from deploy.local.programs import Ports, Program, Stage, programs, servers
from deploy.local.rabbitmq import ADMINISTRATOR, RabbitMQ
from deploy.local.server import alive, poll, tail
from deploy.local.settings import LocalSettings
from deploy.local.stubs import ROOT
from deploy.local.supervisor import HOME_VARIABLE, State, Supervisor

HOME = ROOT / ".local" / "run"
PORT_BASE = LocalSettings().numerator_port_base
TIMEOUT = 240.0
"""Seconds to wait for everything; some 15 are needed on two idle cores."""

STARTS_TO_GIVE_UP = 4
"""A program that had to be started so often while we waited for it will not come up by itself."""


class PlatformError(RuntimeError):
    """Something did not start or did not stop. The message names it, with the end of its log."""


class Progress(Protocol):
    """Told how a start goes on."""

    def waiting(self, names: Sequence[str]) -> None:
        """These programs are not ready yet."""

    def done(self, what: str, seconds: float) -> None:
        """A stage is complete."""


class Silent:
    """Tells nobody."""

    def waiting(self, names: Sequence[str]) -> None:
        """See `Progress`."""

    def done(self, what: str, seconds: float) -> None:
        """See `Progress`."""


class Platform:
    """
    All programs of one home. Any number of objects, in any number of processes, may speak of the same home.

    Args:
        home: Where everything is kept: data, secrets, logs, configuration.
        port_base: The first of the fifty ports that it takes; the gateway's.
        extra_env: Environment for all programs, for instance OTEL_EXPORTER_OTLP_ENDPOINT or SANDBOX_MODE.
            What the caller's own environment holds is passed on too.

    Attributes:
        ports: Who listens where.
        keys: The files with secrets, among them the operator's.
        database_url: Of the whole database, as its administrator.
        amqp_url: Of the broker, as its administrator.
        programs: Those under supervision, by name.

    """

    def __init__(
        self, home: Path = HOME, port_base: int = PORT_BASE, *, extra_env: Mapping[str, str] | None = None
    ) -> None:
        self.home = home.absolute()
        self.ports = Ports(port_base)
        self.extra_env = dict(extra_env or {})
        self.keys = Keys(self.home / "secrets")
        self.supervisor = Supervisor(self.home)

        elsewhere = LocalSettings()
        postgres = Postgres(self.home / "postgres", self.ports.postgres)
        rabbitmq = RabbitMQ(
            self.home / "rabbitmq",
            self.ports.amqp,
            self.ports.epmd,
            self.ports.dist,
            definitions=self._definitions,
        )
        self.postgres = None if elsewhere.database_url else postgres
        self.rabbitmq = None if elsewhere.amqp_url else rabbitmq
        self.database_url = (
            elsewhere.database_url.get_secret_value() if elsewhere.database_url else postgres.url
        )
        self.amqp_url = elsewhere.amqp_url.get_secret_value() if elsewhere.amqp_url else rabbitmq.url
        self.programs: dict[str, Program] = {
            program.name: program
            for program in [
                *servers(self.postgres, self.rabbitmq),
                *programs(
                    self.home,
                    self.ports,
                    self.keys,
                    database_url=self.database_url,
                    amqp_url=self.amqp_url,
                    broker_users=self.rabbitmq is not None,
                ),
            ]
        }

    # ---- up and down

    def up(self, timeout: float = TIMEOUT, progress: Progress | None = None) -> None:
        """
        Start what does not run, and wait until everything is ready.

        Raises:
            PlatformError: something was not ready within `timeout` seconds, or ended again and again.

        """
        progress = progress or Silent()
        deadline = time.monotonic() + timeout
        with self._locked():
            changed = self.supervisor.configure(self.programs.values(), self.extra_env)
            if changed and self.supervisor.running():
                self._down()
            if not self.supervisor.running():
                self._stop_leftovers()
                for server in (self.postgres, self.rabbitmq):
                    if server is not None:
                        server.prepare()
                self.supervisor.launch()
            elif not self.not_ready():
                return
            for stage, what in (
                (Stage.SERVERS, "PostgreSQL and RabbitMQ"),
                (Stage.MIGRATIONS, "database schemas and queues"),
                (Stage.SERVICES, "services, gateway and sandbox"),
            ):
                started = time.monotonic()
                names = self._names(stage)
                for name in names:
                    self.supervisor.start(name)
                self.wait_ready(names, deadline - started, progress)
                progress.done(f"{what} ({len(names)} programs)", time.monotonic() - started)

    def down(self, timeout: float = 60) -> None:
        """
        Stop everything; data is kept.

        Raises:
            PlatformError: something still runs after `timeout` seconds.

        """
        with self._locked():
            self._down(timeout)

    def remove(self) -> None:
        """Stop everything and delete all data, secrets and logs. Raises PlatformError."""
        self.down()
        for server in (self.postgres, self.rabbitmq):
            if server is not None:
                server.remove()
        shutil.rmtree(self.home)

    @contextmanager
    def running(self, timeout: float = TIMEOUT) -> Iterator[Self]:
        """Up for the time of a `with` block."""
        try:
            self.up(timeout)
            yield self
        finally:
            self.down()

    def wait_ready(self, names: Sequence[str], timeout: float = 60, progress: Progress | None = None) -> None:
        """Wait until these programs are ready. Raises PlatformError."""
        progress = progress or Silent()
        deadline = time.monotonic() + timeout
        waiting = list(names)
        starts: dict[str, set[int]] = {name: set() for name in names}
        while waiting:
            states = self.supervisor.states()
            waiting = [name for name in waiting if not self._ready(self.programs[name], states[name])]
            progress.waiting(waiting)
            for name in waiting:
                starts[name] |= {states[name].started} - {0}
            hopeless = [
                name
                for name in waiting
                if len(starts[name]) >= STARTS_TO_GIVE_UP
                or (
                    states[name].status in {"FATAL", "EXITED"}
                    and self.programs[name].stage is Stage.MIGRATIONS
                )
            ]
            if hopeless or (waiting and time.monotonic() > deadline):
                raise PlatformError(self._complaint(hopeless or waiting, states))
            if waiting:
                time.sleep(0.25)

    def not_ready(self) -> list[str]:
        """The programs that should be ready but are not, migrations aside."""
        states = self.supervisor.states()
        names = [*self._names(Stage.SERVERS), *self._names(Stage.SERVICES)]
        return [name for name in names if not self._ready(self.programs[name], states[name])]

    # ---- single programs

    def states(self) -> dict[str, State]:
        """What supervisord knows of each program; nothing while it does not run."""
        return self.supervisor.states() if self.supervisor.running() else {}

    def pid(self, program: str) -> int:
        """The process id of a running program. Raises PlatformError when it does not run."""
        pid = self.supervisor.states()[program].pid
        if not pid:
            raise PlatformError(f"{program} does not run")
        return pid

    def kill(self, program: str, sig: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a program; if it dies of it, it is started again. Returns the process id."""
        pid = self.pid(program)
        os.kill(pid, sig)
        return pid

    def stop(self, program: str) -> None:
        """Stop a program and wait until it is gone; it stays so until `start`."""
        self.supervisor.stop(program, wait=True)

    def start(self, program: str, timeout: float = 60) -> None:
        """Start a program and wait until it is ready. Raises PlatformError."""
        self.supervisor.start(program)
        self.wait_ready([program], timeout)

    def restart(self, program: str, timeout: float = 60) -> None:
        """Stop a program and start it again. Raises PlatformError."""
        self.stop(program)
        self.start(program, timeout)

    def log(self, program: str) -> Path:
        """The file with what a program has printed."""
        return self.supervisor.logs / f"{program}.log"

    # ---- for clients

    def url(self, name: str) -> str:
        """Where `gateway` or `sandbox` speak HTTP, or a service (by its name) gRPC as host:port."""
        if name in {"gateway", "sandbox"}:
            return f"http://127.0.0.1:{getattr(self.ports, name)}"
        return f"127.0.0.1:{self.ports.grpc(name)}"

    def env(self, program: str) -> dict[str, str]:
        """The environment that a program gets from us."""
        return {**self.extra_env, **self.programs[program].environment}

    # ---- inside

    def _definitions(self, password: str) -> str:
        """What our broker loads when it starts, as production's does."""
        # Late: it reads the services' workers, which takes a second.
        from deploy.rabbitmq.definitions import hash_passwords, make_definitions, user_names

        passwords = {
            ADMINISTRATOR: password,
            **{user: self.keys.broker_password(user) for user in user_names()},
        }
        return json.dumps(make_definitions(hash_passwords(passwords, {}), ADMINISTRATOR))

    def _names(self, stage: Stage) -> list[str]:
        return [program.name for program in self.programs.values() if program.stage is stage]

    def _ready(self, program: Program, state: State) -> bool:
        if program.stage is Stage.MIGRATIONS:
            return state.status == "EXITED" and state.exit_code == 0
        return state.status in {"STARTING", "RUNNING"} and program.ready()

    def _complaint(self, names: Sequence[str], states: Mapping[str, State]) -> str:
        parts = [f"not ready: {', '.join(names)}"]
        for name in names[:3]:
            state = states[name]
            ended = f" with code {state.exit_code}" if state.status == "EXITED" else ""
            parts.append(
                f"\n{name} ({state.status}{ended}), the end of {self.log(name)}:\n"
                f"{tail(self.log(name), lines=20)}"
            )
        return "\n".join(parts)

    def _down(self, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        if self.supervisor.running():
            supervisord = psutil.Process(self.supervisor.pid())
            stores = set(self._names(Stage.SERVERS))
            for names in (self.supervisor.states().keys() - stores, stores):
                self._stop_together(names, deadline)
            self.supervisor.shut_down()
            poll(lambda: not alive(supervisord), deadline - time.monotonic())
        self._stop_leftovers()
        left = self._leftovers()
        if left:
            raise PlatformError(f"still running: {', '.join(f'{each.name()} ({each.pid})' for each in left)}")

    def _stop_together(self, names: Iterable[str], deadline: float) -> None:
        """All at once; supervisord itself would take a second for each."""
        for name in names:
            self.supervisor.stop(name)
        poll(
            lambda: not any(self.supervisor.states()[name].pid for name in names),
            deadline - time.monotonic(),
        )

    def _stop_leftovers(self) -> None:
        """Stop what a killed supervisord has left behind."""
        for process in self._leftovers():
            process.terminate()
        if not poll(lambda: not self._leftovers(), 30):
            for process in self._leftovers():
                process.kill()
        for server in (self.postgres, self.rabbitmq):
            if server is not None:
                server.stop()

    def _leftovers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(HOME_VARIABLE) == str(self.home) and alive(process):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.home / "platform.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
