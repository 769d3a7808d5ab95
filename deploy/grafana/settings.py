"""The viewer's settings, the only reader of its environment: `DASHBOARDS_*`."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ViewerSettings(BaseSettings):
    """Where the viewer listens, and what it reads."""

    model_config = SettingsConfigDict(env_prefix="DASHBOARDS_", frozen=True, env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: int = Field(default=3000, ge=1, le=65535)
    prometheus_url: str = "http://127.0.0.1:9090"
    traces_url: str = ""
    """The OTLP receiver as browsers reach it, for links from measurements to their traces. Empty: no links."""
    refresh_seconds: int = Field(default=15, ge=1)
