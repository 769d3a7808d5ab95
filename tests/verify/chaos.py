"""`python -m tests.verify.chaos`: rows 2, 3, 4 and 9 of `make verify-story` alone, on a platform of their own."""

import sys
from functools import partial

from deploy.local.stubs import ROOT
from tests.verify import story_chaos
from tests.verify.table import verify
from tests.world import fresh_world

NAME, PORT_BASE = "chaos", 8150


def main() -> int:
    """Start everything twice, then break it."""
    start_up = partial(story_chaos.start_up, ROOT / ".local" / NAME, PORT_BASE)
    code = verify("chaos: start-up", [("9. Start-up from cold", start_up)])
    with fresh_world(NAME, PORT_BASE) as world:
        world.prepare()
        checks = [
            ("3. RabbitMQ stopped, PostgreSQL restarted", partial(story_chaos.broker_and_database, world)),
            ("4. Poison on every queue", partial(story_chaos.poison, world)),
            ("2. Any process killed during a publication", partial(story_chaos.kills, world)),
        ]
        return verify("chaos", checks) or code


if __name__ == "__main__":
    sys.exit(main())
