"""Everything that dies comes back by itself, and nothing is lost or sent twice by it."""

import time
from collections.abc import Iterator

import pytest

from deploy.compose.stack import Stack
from deploy.demo.client import eventually
from deploy.local.programs import SERVICES
from tests.compose.conftest import Note
from tests.compose.outside import Load, Outside, under_load

KILLED = [*(f"{service}-{process}" for service in SERVICES for process in ("api", "worker")),
          "accounts-webhooks", "publishing-sender", "gateway", "balancer", "sandbox"]  # fmt: skip


@pytest.fixture(scope="module")
def load(outside: Outside) -> Iterator[Load]:
    """Reads and publications beside all tests of this file; errors are expected, lies are not."""
    with under_load(outside, readers=1, writers=1, pause=0.2) as load:
        yield load


def kill(stack: Stack, container: str) -> None:
    """As the kernel kills: `docker kill` would count as a wish, after which the engine starts nothing."""
    pid = str(stack.inspect(container)["State"]["Pid"])
    stack.docker(
        "run", "--rm", "--pid=host", "--user=0:0", "--entrypoint=bash", stack.settings.numerator_image,
        "-c", f"kill -KILL {pid}",
    )  # fmt: skip


def restarts(stack: Stack, container: str) -> int:
    return int(stack.inspect(container)["RestartCount"])


def test_recovery__each_container_killed__is_back(stack: Stack, load: Load, record_property: Note) -> None:
    """One after the other, without waiting in between, as in a bad night."""
    before = {each: restarts(stack, each) for service in KILLED for each in stack.containers(service)[:1]}
    for container in before:
        kill(stack, container)

    began = time.monotonic()
    stack.wait_healthy(before, 120)

    record_property(
        "2. Containers killed", f"{len(before)}; all healthy {time.monotonic() - began:.0f} s after the last"
    )
    assert all(restarts(stack, each) == count + 1 for each, count in before.items())


@pytest.mark.parametrize("server", ["rabbitmq", "postgres"])
@pytest.mark.parametrize("how", ["killed", "restarted"])
def test_recovery__server__is_back(
    stack: Stack, load: Load, server: str, how: str, record_property: Note
) -> None:
    """Broker and database; everybody else stays up, waits, and goes on."""
    began = time.monotonic()
    (container,) = stack.containers(server)
    others = {each: restarts(stack, each) for service in KILLED for each in stack.containers(service)}
    if how == "killed":
        kill(stack, container)
    else:
        stack.docker("restart", "--time", "30", container)

    stack.wait_healthy([container, *others], 120)

    record_property(f"2. {server} {how}", f"all healthy after {time.monotonic() - began:.0f} s")
    assert {each: restarts(stack, each) for each in others} == others


def test_recovery__after_all_this__each_post_is_there_once(
    outside: Outside, load: Load, record_property: Note
) -> None:
    """By the network's own log. What was not acknowledged may be there or not, but not twice."""
    eventually(
        lambda: outside.missing(load.texts) == set() or None, what="all acknowledged posts", seconds=180
    )

    seen = outside.published()
    doubled = [each for each, times in seen.items() if times > 1 and each[1].startswith("Load ")]
    record_property(
        "2. Meanwhile",
        f"{load.done} requests answered, {len(load.failures)} not; {len(load.texts)} publications accepted on "
        f"4 accounts each: 0 lost, {len(doubled)} doubled",
    )
    assert load.texts
    assert doubled == []
