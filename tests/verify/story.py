"""`make verify-story`: measures every promise of the story, and prints the table."""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from deploy.local.platform import Platform
from deploy.local.stubs import ROOT
from tests.verify import story_chaos, story_contracts
from tests.verify.clean_clone import clean_clone
from tests.verify.real_data import real_data
from tests.verify.table import Check, Row, verify
from tests.world import World, world_of

HOME = ROOT / ".local" / "verify"
PORT_BASE = 7900


class Measurements:
    """One platform for all that does not need its own; it comes up when the first check asks for it."""

    def __init__(self) -> None:
        self._world: World | None = None

    @property
    def world(self) -> World:
        """The world, prepared up to the bound accounts."""
        if self._world is None:
            platform = Platform(HOME, PORT_BASE)
            platform.up()
            self._world = world_of(platform)
            self._world.prepare()
        return self._world

    def on_world(self, check: Callable[[World], Iterable[Row]]) -> Callable[[], Iterator[Row]]:
        """The check, on the shared world."""

        def run() -> Iterator[Row]:
            yield from check(self.world)

        return run

    def close(self) -> None:
        """Stop the platform."""
        Platform(HOME, PORT_BASE).down()


def main() -> int:
    """Measure it all."""
    shared = Measurements()
    checks: list[tuple[str, Check]] = [
        (
            "1. A clean clone, the README's two commands",
            partial(clean_clone, ROOT / ".local" / "clean-clone"),
        ),
        ("9. Start-up from cold", partial(story_chaos.start_up, HOME, PORT_BASE)),
        ("8. Real data", shared.on_world(real_data)),
        ("5. Tenants apart", shared.on_world(story_contracts.cross_tenant)),
        ("6. One trace", story_contracts.one_trace),
        ("7. The OpenAPI document under attack", shared.on_world(story_contracts.openapi)),
        ("3. RabbitMQ stopped, PostgreSQL restarted", shared.on_world(story_chaos.broker_and_database)),
        ("4. Poison on every queue", shared.on_world(story_chaos.poison)),
        ("2. Any process killed during a publication", shared.on_world(story_chaos.kills)),
    ]
    try:
        return verify("story", checks)
    finally:
        shared.close()


if __name__ == "__main__":
    sys.exit(main())
