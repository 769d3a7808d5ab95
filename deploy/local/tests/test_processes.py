import subprocess
import sys

import pytest

from deploy.local.programs import SERVICES

SENDERS = ["services.publishing.sender", "services.accounts.webhooks"]
APIS = [*(f"services.{name}.api" for name in SERVICES), *SENDERS, "gateway.app"]
WORKERS = [f"services.{name}.worker" for name in SERVICES]

LOADED = """
import importlib, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def loaded(modules: list[str]) -> set[str]:
    """The top packages that a process holds after it has imported these modules."""
    command = [sys.executable, "-c", LOADED, " ".join(modules)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    ("modules", "own", "foreign"),
    [(APIS, {"grpc"}, {"eventlet", "nameko", "kombu"}), (WORKERS, {"nameko", "eventlet"}, {"grpc"})],
    ids=["apis", "workers"],
)
def test_processes__keep_apart_what_does_not_mix(
    modules: list[str], own: set[str], foreign: set[str]
) -> None:
    """Workers hold no grpc, and api processes no eventlet; not even by way of stubs."""
    packages = loaded(modules)

    assert own <= packages
    assert not foreign & packages
