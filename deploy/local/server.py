"""What our own PostgreSQL and RabbitMQ have in common: a home, an unprivileged user, start and stop."""

import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

import psutil

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ServerError(RuntimeError):
    """A server did not start or did not stop; the message ends with the tail of its log."""


def poll(predicate: Callable[[], bool], timeout: float, interval: float = 0.05) -> bool:
    """Whether `predicate` became true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that nobody has waited for yet (a zombie) does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a text file; empty when there is no such file."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def unprivileged_user() -> str | None:
    """Who servers run as: `nobody` when we are root (PostgreSQL refuses root), else None: ourselves."""
    return "nobody" if os.geteuid() == 0 else None


def place_for(home: Path) -> Path:
    """
    Where a server keeps its files: `home`, if its user can get there.

    In a checkout below a closed folder such as /root, `nobody` cannot; then a folder in /var/lib/numerator,
    always the same for the same home.
    """
    home = home.resolve()
    if unprivileged_user() is None or reachable(home):
        return home
    return Path("/var/lib/numerator") / hashlib.sha256(str(home).encode()).hexdigest()[:12]


def reachable(path: Path) -> bool:
    """Whether any user may enter all folders above `path` (those that exist)."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents if parent.exists())


class Server(ABC):
    """
    A server in a folder of its own, reachable on 127.0.0.1 only.

    In tests, share one between sessions, and leave it to the last one to stop it:

        with Postgres(Path(".local/test/postgres"), port=7502).shared() as postgres:
            ...  # postgres.url

    Under a supervisor, call `prepare()` once, then run `command()` as `user` in `place` with `environment()`.

    Attributes:
        home: The folder given; locks and the log are in it.
        place: Where the data is: `home`, or see `place_for`.
        user: Who runs it; None for ourselves.

    """

    process_name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, home: Path, port: int) -> None:
        self.home = home.absolute()
        self.port = port
        self.user = unprivileged_user()
        self.place = place_for(self.home)
        self.log = self.home / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, with the administrator's name and password."""

    @abstractmethod
    def prepare(self) -> None:
        """Create the data folder and the configuration; what is there already is kept."""

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments; it stays in the foreground and logs to its standard output."""

    @abstractmethod
    def running(self) -> bool:
        """Whether this very server answers its clients."""

    @abstractmethod
    def pid_file(self) -> Path:
        """The file whose first line is the process id."""

    def environment(self) -> dict[str, str]:
        """The whole environment of the program; it needs nothing of ours."""
        return {"PATH": SYSTEM_PATH, "HOME": str(self.place), "LANG": "C.UTF-8", "TZ": "UTC"}

    def process(self) -> psutil.Process | None:
        """The server's main process, if it lives."""
        try:
            process = psutil.Process(int(self.pid_file().read_text().split(maxsplit=1)[0]))
            is_ours = process.name() == self.process_name  # not a stranger who got the number after a crash
        except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
            return None
        return process if is_ours and alive(process) else None

    def start(self, timeout: float = 60) -> None:
        """
        Start it and wait until it answers; at once when it runs already, whoever started it.

        Raises:
            ServerError: it ended or did not answer within `timeout` seconds.

        """
        with self._locked("start.lock"):
            if self.running():
                return
            self.prepare()
            with self.log.open("wb") as log:
                self._process = self.spawn(self.command(), log.fileno())
            process = self._process
            if not poll(lambda: process.poll() is not None or self.running(), timeout) or not self.running():
                process.kill()
                process.wait()
                raise ServerError(f"{self.command()[0]} did not start on port {self.port}:\n{tail(self.log)}")

    def stop(self, timeout: float = 30) -> None:
        """Stop it and wait until it is gone; killed when it takes longer than `timeout` seconds."""
        with self._locked("start.lock"):
            process = self.process()
            if process is not None:
                process.send_signal(self.stop_signal)
                if not poll(lambda: not alive(process), timeout):
                    process.kill()
                    poll(lambda: not alive(process), timeout)
            if self._process is not None:
                self._process.wait()
                self._process = None

    def remove(self) -> None:
        """Stop it and delete all that it has kept, wherever that is."""
        self.stop()
        shutil.rmtree(self.place)
        shutil.rmtree(self.home, ignore_errors=True)

    @contextmanager
    def shared(self, timeout: float = 60) -> Iterator[Self]:
        """
        Have it run for a `with` block, together with other processes that do so; the last one out stops it.

        A process that dies does not count any more (the kernel drops its lock), so a server left behind by a
        crash is stopped by the next one that uses it.
        """
        with self._locked("users.lock", fcntl.LOCK_SH) as lock:
            self.start(timeout)
            try:
                yield self
            finally:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass  # others are still using it
                else:
                    self.stop()

    def spawn(self, command: Sequence[str], output: int) -> subprocess.Popen[bytes]:
        """Run a program as the server's user, in its place and its environment, apart from our terminal."""
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            cwd=self.place, env=self.environment(), start_new_session=True,
            user=self.user, group=pwd.getpwnam(self.user).pw_gid if self.user else None,
            extra_groups=[] if self.user else None,
        )  # fmt: skip

    def make_place(self) -> None:
        """Create `home` and `place`; the latter belongs to the server's user."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.place.mkdir(parents=True, exist_ok=True)
        self.give(self.place)

    def write(self, path: Path, text: str) -> None:
        """Write a file that only the server's user (and root) may read."""
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
        self.give(path)

    def give(self, path: Path) -> None:
        """Make a file or folder the server's user's."""
        if self.user is not None:
            shutil.chown(path, self.user)

    def password(self) -> str:
        """The administrator's password, made up once and kept beside the data."""
        path = self.place / "password"
        if not path.exists():
            self.make_place()
            self.write(path, secrets.token_urlsafe(24))
        return path.read_text()

    @contextmanager
    def _locked(self, name: str, kind: int = fcntl.LOCK_EX) -> Iterator[int]:
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / name).open("a") as file:
            fcntl.flock(file, kind)
            yield file.fileno()
