"""Settings of publishing's processes, from `PUBLISHING_*`."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings
from services.publishing.failpoints import FailPoints
from services.publishing.model.deliveries import Policy

Seconds = Annotated[float, Field(gt=0, le=3600)]


class Settings(ServiceSettings):
    """What api, worker, sender and migrate need to know."""

    model_config = SettingsConfigDict(env_prefix="PUBLISHING_")

    private_key: SecretStr | None = None
    """The key, as PEM text, to which accounts' tokens are sealed. Only the sender needs it."""
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 50
    """How many requests a sender has under way at most."""
    interactions_interval: Seconds = 30
    """How often each account's notifications are read, in seconds."""
    request_timeout: Seconds = 10
    """How long one request to a network may take, in seconds."""
    lease_margin: Seconds = 10
    """How much longer than its request a lease lasts, in seconds: the time to record an outcome."""
    server_margin: Seconds = 30
    """How long after we gave up on a request its server may still be working on it, in seconds."""
    visibility_lag: Seconds = 30
    """How long a new post may be missing from its account's timeline, in seconds."""
    longest_delay: Seconds = 300
    """The longest wait between two attempts of a delivery, in seconds; the first is 1, and each doubles."""
    fail_point: str = ""
    """For tests: where the process kills or stops itself; see `failpoints`. Refused in production."""

    @property
    def policy(self) -> Policy:
        """The times and bounds of sending."""
        return Policy(
            request_timeout=timedelta(seconds=self.request_timeout),
            lease_margin=timedelta(seconds=self.lease_margin),
            server_margin=timedelta(seconds=self.server_margin),
            visibility_lag=timedelta(seconds=self.visibility_lag),
            longest_delay=timedelta(seconds=self.longest_delay),
        )

    @model_validator(mode="after")
    def _check_fail_point(self) -> Self:
        FailPoints(self.fail_point)
        if self.fail_point and self.environment == "production":
            raise ValueError("fail_point must be empty in production")
        return self
