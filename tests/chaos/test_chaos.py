"""Short versions of what `make verify-story` measures, and the checkers' own checks."""

import httpx
import pytest

from tests.chaos.broker import stop_broker
from tests.chaos.database import restart_database
from tests.chaos.kills import kill_each, tell_the_story
from tests.chaos.poison import poison_all
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_kills__each_post_once(world: World, seed: int) -> None:
    """Who makes a publication, the network and the database are killed: exactly once, where keys are ignored."""
    victims = ["publishing-sender", "publishing-worker", "sandbox", "postgres"]
    killings = kill_each(world, "ignores", victims, seed=seed)
    assert killings.flawless, (seed, killings)


def test_kills__the_story_goes_on(world: World) -> None:
    """After the killings the whole story can be told, and each account has its post once."""
    assert set(tell_the_story(world)["posts_seen"].values()) == {1}


@pytest.mark.parametrize(("blindly", "duplicated"), [(True, 1), (False, 0)])
def test_kills__checker_sees_a_second_post(world: World, seed: int, blindly: bool, duplicated: int) -> None:
    """A reply is lost. Who believes of a network that ignores keys that it honours them sends blindly again, and is caught."""
    kill_each(world, "honours", [], seed=seed)
    fault = {"operation": "post_status", "kind": "lost_reply_after_commit", "count": 1}
    httpx.post(f"{world.platform.url('sandbox')}/control/faults", json=fault).raise_for_status()
    killings = kill_each(world, "ignores", ["epmd"], seed=seed, rebind=not blindly, window=0.1)
    assert killings.ledger.duplicated == duplicated, (seed, killings)
    assert killings.flawless is not blindly
    assert not killings.ledger.lost


def test_broker__nothing_lost_nothing_twice(world: World) -> None:
    """Events that are told while RabbitMQ is away are applied once when it is back."""
    outage = stop_broker(world, events=300, seconds=5)
    assert outage.flawless, outage
    assert outage.accepted_meanwhile > 0


def test_database__errors_as_promised(world: World, seed: int) -> None:
    """PostgreSQL dies at once: 503 with Retry-After, soon all answer again, and writes are there once."""
    restarts = restart_database(world, 1, seed=seed)
    assert restarts.flawless, (seed, restarts)
    assert max(restarts.recoveries) < 10, restarts


def test_poison__dead_letters_only(world: World, seed: int) -> None:
    """Poison on every handler's queue ends as dead letters with reasons; good messages among it are handled."""
    poisoning = poison_all(world, 50, seed=seed)
    assert poisoning.flawless, (seed, poisoning)
