from collections.abc import Iterator

import psutil
import pytest

from deploy.local.platform import Platform
from deploy.local.server import alive, poll

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The whole platform, on ports of its own."""
    whole = Platform(tmp_path_factory.mktemp("whole"), port_base=17800)
    try:
        whole.up()
        yield whole
    finally:
        whole.remove()


def libraries(platform: Platform, program: str) -> str:
    """The shared libraries that a program has loaded."""
    return "\n".join(each.path for each in psutil.Process(platform.pid(program)).memory_maps())


def test_workers__have_not_loaded_grpc(platform: Platform) -> None:
    """No worker has grpc in its process, not even by way of stubs; api processes show that the test can see it."""
    workers = [name for name in platform.programs if name.endswith("-worker")]

    assert len(workers) == 6
    assert [name for name in workers if "cygrpc" in libraries(platform, name)] == []
    assert "cygrpc" in libraries(platform, "accounts-api")


@pytest.mark.parametrize("server", ["rabbitmq", "epmd", "postgres"])
def test_kill__everything_is_ready_again(platform: Platform, server: str) -> None:
    """After kill -9 of a server it is started again, and all that stands on it recovers."""
    before = platform.kill(server)

    assert poll(lambda: platform.states()[server].pid not in {0, before}, 20)
    assert poll(lambda: platform.not_ready() == [], 60)


def test_down__nothing_is_left_and_data_is_kept(platform: Platform) -> None:
    """Stopped as a whole, no process remains; started again, the database is the same."""
    assert platform.postgres is not None
    platform.postgres.psql("-c", "create table kept ()")
    supervisord = psutil.Process(platform.supervisor.pid())
    family = [supervisord, *supervisord.children(recursive=True)]
    assert len(family) > 18

    platform.down()

    assert [each for each in family if alive(each)] == []
    platform.up()
    assert platform.postgres.psql("-c", "select count(*) from kept") == "0"
