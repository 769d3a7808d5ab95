"""supervisord: its configuration from the table of programs, and a typed client of its XML-RPC interface."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from deploy.local.programs import Program, Stage

HOME_VARIABLE = "NUMERATOR_HOME"
"""In the environment of every process of ours; finds them if supervisord itself was killed."""

LONGEST_SOCKET_PATH = 100  # the kernel's limit is 107; supervisord appends its process id for a moment


class SupervisorError(RuntimeError):
    """supervisord cannot be started or reached."""


@dataclass(frozen=True)
class State:
    """
    What supervisord knows of a program.

    Attributes:
        status: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN.
        pid: 0 when it does not run.
        started: When it was last started, in seconds since 1970.
        exit_code: Of the last run.

    """

    status: str
    pid: int
    started: int
    exit_code: int


class Supervisor:
    """The supervisord of one home."""

    def __init__(self, home: Path) -> None:
        self.config = home / "supervisord.conf"
        self.logs = home / "logs"
        self._home = home
        self._socket = home / "supervisor.sock"
        self._pid_file = home / "supervisord.pid"

    def configure(self, programs: Iterable[Program], environment: Mapping[str, str]) -> bool:
        """Write the configuration; `environment` is for all programs. Returns whether it has changed."""
        if len(str(self._socket)) > LONGEST_SOCKET_PATH:
            raise SupervisorError(f"{self._home} is too long a path for a Unix socket: choose another --home")
        self.logs.mkdir(parents=True, exist_ok=True)
        sections = [
            _section(
                "supervisord",
                logfile=self.logs / "supervisord.log", pidfile=self._pid_file, childlogdir=self.logs,
                environment=_environment(environment),
                **({"user": "root"} if os.geteuid() == 0 else {}),
            ),
            _section("unix_http_server", file=self._socket, chmod="0700"),
            _section(
                "rpcinterface:supervisor",
                **{"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
            ),
            _section("supervisorctl", serverurl=f"unix://{self._socket}"),
            *(self._program(each) for each in programs),
        ]  # fmt: skip
        text = "\n".join(sections)
        if self.config.exists() and self.config.read_text() == text:
            return False
        self.config.unlink(missing_ok=True)
        self.config.touch(mode=0o600)
        self.config.write_text(text)
        return True

    def _program(self, program: Program) -> str:
        once = program.stage is Stage.MIGRATIONS
        marker = {} if program.stage is Stage.SERVERS else {HOME_VARIABLE: str(self._home)}
        return _section(
            f"program:{program.name}",
            command=shlex.join(program.command).replace("%", "%%"),
            environment=_environment({**program.environment, **marker}),
            **({"user": program.user} if program.user else {}),
            **({"directory": program.directory} if program.directory else {}),
            priority=int(program.stage),
            autostart="true" if program.stage is Stage.SERVERS else "false",
            autorestart="false" if once else "true",
            startsecs=0 if once else 1,
            startretries=0 if once else 1_000_000,
            stopsignal=program.stop_signal, stopwaitsecs=30, stopasgroup="true", killasgroup="true",
            redirect_stderr="true", stdout_logfile=self.logs / f"{program.name}.log",
            stdout_logfile_maxbytes="20MB", stdout_logfile_backups=2,
        )  # fmt: skip

    def running(self) -> bool:
        """Whether it answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self._socket)) == 0

    def pid(self) -> int:
        """Its process id."""
        return int(self._call("getPID"))

    def launch(self) -> None:
        """Start it in the background, and with it the programs of the first stage. Logs begin anew."""
        previous = self.logs.with_name("logs.previous")
        shutil.rmtree(previous, ignore_errors=True)
        self.logs.rename(previous)
        self.logs.mkdir()
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.config)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SupervisorError(f"supervisord did not start:\n{done.stdout}{done.stderr}")

    def shut_down(self) -> None:
        """Ask it to stop the remaining programs and itself. Returns at once."""
        self._call("shutdown")

    def start(self, name: str) -> None:
        """Start a program, unless it runs. Returns at once."""
        self._tolerate(Faults.ALREADY_STARTED, "startProcess", name, False)

    def stop(self, name: str, *, wait: bool = False) -> None:
        """Stop a program, if it runs. Returns at once, unless told to `wait`."""
        self._tolerate(Faults.NOT_RUNNING, "stopProcess", name, wait)

    def states(self) -> dict[str, State]:
        """All programs by name."""
        return {
            info["name"]: State(info["statename"], info["pid"], info["start"], info["exitstatus"])
            for info in self._call("getAllProcessInfo")
        }

    def _tolerate(self, fault: int, method: str, *arguments: Any) -> None:
        try:
            self._call(method, *arguments)
        except xmlrpc.client.Fault as error:
            if error.faultCode != fault:
                raise SupervisorError(f"{method} {arguments[0]}: {error.faultString}") from None

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            try:
                return getattr(proxy.supervisor, method)(*arguments)
            except (OSError, HTTPException) as error:
                raise SupervisorError(f"supervisord of {self._home} does not answer: {error}") from None


def _section(title: str, /, **options: object) -> str:
    for key, value in options.items():
        if re.search(r"\n|\s[;#]", str(value)):
            raise SupervisorError(
                f"{title}: {key} has a line break, or what the file takes for a comment: {value}"
            )
    return "\n".join([f"[{title}]", *(f"{key} = {value}" for key, value in options.items()), ""])


def _environment(variables: Mapping[str, str]) -> str:
    return ",".join(f"{name}={_quoted(name, value)}" for name, value in variables.items())


def _quoted(name: str, value: str) -> str:
    """What supervisord reads back as `value`. It has no escapes, and strips quotes off the ends."""
    quote = "'" if '"' in value else '"'
    if quote in value or value != value.strip("\"'"):
        raise SupervisorError(f"{name}: supervisord cannot pass on such quotes; use a file")
    return f"{quote}{value.replace('%', '%%')}{quote}"
