"""Makes the fixtures of `services.chassis.testing` known to all tests, and keeps together what shares a platform."""

import signal
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from services.chassis.testing.settings import TestSettings

# Whatever a shell starts in the background has it ignored, and so would all that tests start, which some of them interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["services.chassis.testing.plugin"]

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile(
    "full", max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("full"), max_examples=50)
settings.load_profile(TestSettings().size)


class ByPlatform(LoadScopeScheduling):
    """One worker for each file; for all files of a folder under `tests/`, whose platform has fixed ports."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)


def _scope(nodeid: str) -> str:
    file = nodeid.split("::", 1)[0]
    return file.rpartition("/")[0] if file.startswith("tests/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByPlatform:
    """How `-n` shares out the tests: in the order in which they were collected."""
    config.option.loadscopereorder = False
    return ByPlatform(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What may take longest comes first, so that in the end no worker is left with it while the others are done."""
    usual = float(config.getini("timeout"))
    allowed: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("timeout")
        allowed[_scope(item.nodeid)] += mark.args[0] if mark else usual
    items.sort(key=lambda item: -allowed[_scope(item.nodeid)])
