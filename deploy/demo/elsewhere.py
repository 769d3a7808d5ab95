"""`python -m deploy.demo.elsewhere`: plays the story on a platform that runs elsewhere, as in containers; see `settings`."""

import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from rich.console import Console

from deploy.demo import profiles
from deploy.demo.client import Problem
from deploy.demo.settings import Settings
from deploy.demo.story import Places, Story
from deploy.sandbox.users import PASSWORD


def main() -> int:
    """Play the story once; 1 when it ends early."""
    settings = Settings.load()
    console = Console(width=None if sys.stdout.isatty() else 120)
    began = monotonic()
    with TemporaryDirectory() as folder:
        people = Path(folder) / "profiles.jsonl"
        profiles.write(people, count=settings.profiles)
        places = Places(
            gateway=settings.gateway_url,
            network=settings.network_url,
            operator_secret=settings.operator_secret.get_secret_value(),
            reviewer_secret=settings.operators["reviewer"].get_secret_value(),
            network_secret=settings.network_secret.get_secret_value(),
            profiles=people,
            network_password=PASSWORD,
            listen=_address_towards(settings.webhooks_sender),
        )
        try:
            Story(places, console).play()
        except (Problem, TimeoutError) as error:
            console.print(f"[red]✗ The story ends here:[/red] {error}", highlight=False)
            return 1
    console.print(f"\nThe story took {monotonic() - began:.0f} s.")
    return 0


def _address_towards(host: str) -> str:
    """Our own address on the network on which a host is. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


if __name__ == "__main__":
    sys.exit(main())
