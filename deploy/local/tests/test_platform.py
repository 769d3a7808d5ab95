import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from deploy.local import platform as platform_module
from deploy.local.keys import Keys
from deploy.local.platform import Platform, PlatformError
from deploy.local.probes import listening
from deploy.local.programs import SERVICES, Ports, Program, Stage, programs
from deploy.local.server import alive, poll
from deploy.local.supervisor import SupervisorError

SERVE = "import sys, http.server as h; h.HTTPServer(('127.0.0.1', int(sys.argv[1])), h.BaseHTTPRequestHandler).serve_forever()"
TRICKY = """[" %(ENV_HOME)s", "50%", "a,b=c;d#e"]"""

Make = Callable[..., Platform]


@pytest.fixture
def make(tmp_path: Path, free_ports, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A platform of the programs given; without servers of its own, as if they ran elsewhere."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://admin:secret@elsewhere:5432/numerator")
    monkeypatch.setenv("AMQP_URL", "amqp://admin:secret@elsewhere:5672/%2F")
    made = []

    def make_platform(*table: Program, **extra_env: str) -> Platform:
        monkeypatch.setattr(platform_module, "programs", lambda *_, **__: list(table))
        made.append(Platform(tmp_path / "home", free_ports(1)[0], extra_env=extra_env))
        return made[-1]

    yield make_platform
    for each in made:
        each.down()


@pytest.fixture
def server(free_ports) -> Program:
    """A program that is ready when it listens."""
    (port,) = free_ports(1)
    return Program(
        name="server", stage=Stage.SERVICES, command=[sys.executable, "-c", SERVE, str(port)],
        ready=lambda: listening(port),
    )  # fmt: skip


def shell(name: str, stage: Stage, script: str, **more) -> Program:
    return Program(name=name, stage=stage, command=["sh", "-c", script], **more)


def test_up__runs_migrations_before_services_once(make: Make, server: Program, tmp_path: Path) -> None:
    """Migrations end before services start; a second `up` on a running platform does nothing."""
    note = tmp_path / "note"
    migration = shell("migrate", Stage.MIGRATIONS, f"echo migrated >>{note}")
    platform = make(migration, server)

    platform.up(timeout=20)
    first = platform.pid("server")
    platform.up(timeout=20)

    assert platform.pid("server") == first
    assert note.read_text() == "migrated\n"


def test_up__environment_arrives_as_it_was(make: Make, tmp_path: Path) -> None:
    """Quotes, percent signs and commas reach the program unchanged; so does what is meant for all programs."""
    note = tmp_path / "note"
    script = f'printf "%s|%s" "$TRICKY" "$SHARED" >{note}'
    platform = make(shell("echo", Stage.MIGRATIONS, script, environment={"TRICKY": TRICKY}), SHARED="x y")

    platform.up(timeout=20)

    assert note.read_text() == f"{TRICKY}|x y"
    assert platform.env("echo") == {"SHARED": "x y", "TRICKY": TRICKY}


@pytest.mark.parametrize("value", ['it\'s "both"', '"ends"', "line\nbreak", "a #comment", "a ;comment"])
def test_up__environment_that_would_not_arrive_is_refused(make: Make, server: Program, value: str) -> None:
    """What supervisord's file cannot carry is an error, never a silent change."""
    with pytest.raises(SupervisorError):
        make(server, VARIABLE=value).up()


def test_up__failed_migration_is_told_and_no_service_starts(make: Make, server: Program) -> None:
    """A migration that fails ends the start at once, with what it printed."""
    platform = make(shell("migrate", Stage.MIGRATIONS, "echo no such table; exit 3"), server)

    with pytest.raises(PlatformError, match=r"(?s)migrate \(EXITED with code 3\).*no such table"):
        platform.up(timeout=20)

    assert platform.states()["server"].status == "STOPPED"


def test_up__service_that_ends_again_and_again_is_told(make: Make) -> None:
    """A service in a crash loop is given up long before the deadline, with its log."""
    platform = make(shell("service", Stage.SERVICES, "echo wrong settings; exit 1", ready=lambda: False))

    with pytest.raises(PlatformError, match=r"(?s)service .*wrong settings"):
        platform.up(timeout=100)


def test_up__service_that_never_gets_ready_is_told(make: Make) -> None:
    """A service that runs but does not answer is named when the deadline is over."""
    platform = make(shell("service", Stage.SERVICES, "echo waiting; sleep 100", ready=lambda: False))

    with pytest.raises(PlatformError, match=r"(?s)not ready: service.*waiting"):
        platform.up(timeout=2)


def test_kill__what_dies_is_started_again(make: Make, server: Program) -> None:
    """After kill -9 a program comes back by itself, under another process id."""
    platform = make(server)
    platform.up(timeout=20)

    before = platform.kill("server")
    assert poll(lambda: platform.states()["server"].pid not in {0, before}, 10)
    platform.wait_ready(["server"], 10)

    platform.restart("server", 10)
    assert platform.not_ready() == []


def test_down__leaves_nothing(make: Make, server: Program) -> None:
    """After `down` neither the supervisor nor a program runs, nor what programs have started."""
    platform = make(server, shell("parent", Stage.SERVICES, "sleep 1000 & wait"))
    platform.up(timeout=20)
    family = psutil.Process(platform.supervisor.pid())
    family = [family, *family.children(recursive=True)]
    assert len(family) == 4

    platform.down()

    assert not [each for each in family if alive(each)]
    assert platform.states() == {}


def test_down__finds_what_a_killed_supervisor_left(make: Make, server: Program) -> None:
    """Programs whose supervisor was killed are stopped by `down`, and replaced by `up`."""
    platform = make(server)
    platform.up(timeout=20)
    orphan = psutil.Process(platform.pid("server"))
    os.kill(platform.supervisor.pid(), signal.SIGKILL)
    assert poll(lambda: not platform.supervisor.running(), 5)

    platform.up(timeout=20)

    assert not alive(orphan)
    assert platform.not_ready() == []


def test_up__change_of_the_table_restarts(make: Make, server: Program) -> None:
    """With another program or environment the platform is started anew; old programs are gone."""
    platform = make(server, shell("old", Stage.SERVICES, "sleep 1000"))
    platform.up(timeout=20)
    old = psutil.Process(platform.pid("old"))

    changed = make(server)
    changed.up(timeout=20)

    assert not alive(old)
    assert list(changed.states()) == ["server"]


def test_keys__made_once_and_closed(tmp_path: Path) -> None:
    """Secrets stay the same over starts, and only their owner may read them."""
    first = Keys(tmp_path / "secrets")
    password = first.database_password("accounts")
    content = {path.name: path.read_bytes() for path in first.folder.iterdir()}

    again = Keys(tmp_path / "secrets")

    assert again.database_password("accounts") == password
    assert len(again.operator_secret_of("reviewer")) > 40
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == content
    assert {path.stat().st_mode & 0o777 for path in again.folder.iterdir()} == {0o600}


def test_programs__no_port_is_given_twice(tmp_path: Path) -> None:
    """Of all ports in the table, each belongs to one program, and all lie in the fifty from the base."""
    ports = Ports(9000)
    table = programs(
        tmp_path, ports, Keys(tmp_path),
        database_url="postgresql://a:b@h/d", amqp_url="amqp://h", broker_users=False,
    )  # fmt: skip
    services = [each.name for each in table if each.stage is Stage.SERVICES and each.name != "sandbox"]

    used = [ports.gateway, ports.sandbox, ports.postgres, ports.amqp, ports.epmd, ports.dist]
    used += [ports.grpc(name.removesuffix("-api")) for name in services if name.endswith("-api")]
    used += [ports.metrics(name) for name in services]

    assert len(services) == 15
    assert len(set(used)) == len(used) == 27
    assert all(9000 <= port < 9050 for port in used)


def test_programs__only_migrations_may_administer(tmp_path: Path) -> None:
    """The administrators' passwords are given to migrations alone; each service gets its own role's and user's."""
    table = programs(
        tmp_path,
        Ports(9000),
        Keys(tmp_path),
        database_url="postgresql://boss:hush@h:1/d",
        amqp_url="amqp://boss:quiet@h:2/%2F",
        broker_users=True,
    )

    for password in ("hush", "quiet"):
        knowing = {each.name for each in table if password in str(each.environment)}
        assert knowing == {each.name for each in table if each.stage is Stage.MIGRATIONS}
    users = {
        urlsplit(each.environment["AMQP_URL"]).username
        for each in table
        if each.stage is Stage.SERVICES and each.name != "sandbox"
    }
    assert users == {*SERVICES, "gateway"}
    api = next(each for each in table if each.name == "accounts-api")
    assert api.environment["ACCOUNTS_DATABASE_URL"].startswith("postgresql://accounts:")
    assert api.environment["ACCOUNTS_DATABASE_URL"].endswith("@h:1/d")
