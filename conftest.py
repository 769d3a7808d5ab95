"""Makes the fixtures of `services.chassis.testing` known to all tests."""

pytest_plugins = ["services.chassis.testing.plugin"]
