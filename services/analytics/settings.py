"""Analytics' settings: the only reader of the environment in this service."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`ANALYTICS_*`."""

    model_config = SettingsConfigDict(env_prefix="ANALYTICS_")

    window_seconds: int = Field(default=60, ge=1, le=3600)
    """How long the windows are in which guardrails' numbers are counted. Short ones stop a rollout sooner, and make more rows."""
    tell_seconds: float = Field(default=5, gt=0)
    """How often guardrails' numbers are told."""
    store_path: Path = Path(".local/analytics")
    """Where the api process keeps its columnar store. It can be deleted: it is filled again from PostgreSQL."""

    @property
    def window(self) -> timedelta:
        """The length of a window."""
        return timedelta(seconds=self.window_seconds)
