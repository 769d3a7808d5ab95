"""Makes the fixtures of `services.chassis.testing` known to all tests, and keeps together what shares a platform."""

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["services.chassis.testing.plugin"]

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("numerator", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("numerator")


class ByPlatform(LoadScopeScheduling):
    """One worker for each file; for all files of a folder under `tests/`, whose platform has fixed ports."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return file.rpartition("/")[0] if file.startswith("tests/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByPlatform:
    """How `-n` shares out the tests."""
    return ByPlatform(config, log)
