"""The receiver's settings, the only reader of its environment: `OTLP_*`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ReceiverSettings(BaseSettings):
    """Where the receiver listens, and how much it keeps."""

    model_config = SettingsConfigDict(env_prefix="OTLP_", frozen=True, env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: int = Field(default=4318, ge=1, le=65535)
    traces: int = Field(default=2_000, ge=1)
    """How many traces are kept in memory; some 20 kB each."""
    logs: int = Field(default=20_000, ge=1)
    """How many log lines are kept in memory; about 1 kB each."""
    folder: Path | None = None
    """Where spans and log lines are written as JSON Lines, too. None: nowhere."""
    file_bytes: int = Field(default=50_000_000, ge=1_000)
    """How long a file may become. There are up to four of spans and four of log lines."""
