"""A RabbitMQ of our own, from Debian's package `rabbitmq-server`, apart from the system's."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from deploy.local.server import Server, ServerError

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one in /usr/sbin insists on the system's user

ADMINISTRATOR = "numerator"
AMQP_GREETING = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"


class RabbitMQ(Server):
    """
    One broker node with its own cookie, configuration, data and epmd (Erlang's name server); no plugins.

    Args:
        home: Its folder.
        port: Where it speaks AMQP.
        epmd_port: Its epmd's.
        dist_port: Where its own command-line tools find it.
        definitions: Tells, when asked with the administrator's password, what it loads at every start, as JSON; see
            `deploy.rabbitmq`. Without, it knows the administrator alone.

    """

    process_name = "beam.smp"

    def __init__(
        self,
        home: Path,
        port: int,
        epmd_port: int,
        dist_port: int,
        *,
        definitions: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(home, port)
        self.epmd_port = epmd_port
        self.dist_port = dist_port
        self._definitions = definitions

    @property
    def url(self) -> str:
        return f"amqp://{ADMINISTRATOR}:{self.password()}@127.0.0.1:{self.port}/%2F"

    @property
    def node(self) -> str:
        """The Erlang node's name; `rabbitmqctl -n` wants it."""
        return "numerator@localhost"

    def prepare(self) -> None:
        if not PROGRAM.exists():
            raise ServerError(
                "RabbitMQ is not installed: run `make setup` (it installs Debian's rabbitmq-server)"
            )
        self.make_place()
        self.write(
            self.place / "rabbitmq.conf",
            f"""\
listeners.tcp.1 = 127.0.0.1:{self.port}
default_user = {ADMINISTRATOR}
default_pass = {self.password()}
heartbeat = 30
channel_max = 256
max_message_size = 16777216
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 200MB
log.file = false
log.console = true
log.console.use_colors = off
{self._load_definitions()}
""",
        )
        self.write(self.place / "enabled_plugins", "[].")
        cookie = self.place / ".erlang.cookie"
        if not cookie.exists():
            self.write(cookie, self.password())

    def _load_definitions(self) -> str:
        if self._definitions is None:
            return ""
        path = self.place / "definitions.json"
        self.write(path, self._definitions(self.password()))
        return f"load_definitions = {path}"

    def command(self) -> list[str]:
        return [str(PROGRAM)]

    def environment(self) -> dict[str, str]:
        return super().environment() | {
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.place / "data"),
            "RABBITMQ_LOG_BASE": str(self.place),
            "RABBITMQ_CONFIG_FILE": str(self.place / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.place / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,  # not the system's
            "RABBITMQ_PID_FILE": str(self.pid_file()),
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the broker: one process id
            "ERL_CRASH_DUMP_SECONDS": "0",  # the log says it all
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_AFLAGS": "-start_epmd false",  # else Erlang leaves an epmd behind that nobody stops
        }

    def epmd_command(self) -> list[str]:
        """The name server's program and arguments; it stays in the foreground, and is there first."""
        return ["/usr/bin/epmd", "-address", "127.0.0.1", "-port", str(self.epmd_port)]

    def epmd_running(self) -> bool:
        """Whether something answers on epmd's port."""
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.epmd_port)) == 0

    def pid_file(self) -> Path:
        return self.place / "pid"

    def running(self) -> bool:
        if self.process() is None:
            return False
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(AMQP_GREETING)
                return connection.recv(1) == METHOD_FRAME
        except OSError:
            return False

    def start(self, timeout: float = 60) -> None:
        self.make_place()
        if not self.epmd_running():
            self.spawn([*self.epmd_command(), "-daemon"], subprocess.DEVNULL).wait()
        try:
            super().start(timeout)
        except ServerError:
            self.stop()
            raise

    def stop(self, timeout: float = 30) -> None:
        super().stop(timeout)
        if self.epmd_running():
            self.spawn([*self.epmd_command(), "-kill"], subprocess.DEVNULL).wait()
