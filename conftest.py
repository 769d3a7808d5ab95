"""Makes the fixtures of `services.chassis.testing` known to all tests."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["services.chassis.testing.plugin"]

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("numerator", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("numerator")
