"""The sandbox's settings, the only reader of its environment: `SANDBOX_*`."""

from enum import StrEnum
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Mode(StrEnum):
    """What the network does with an `Idempotency-Key`."""

    HONOURS = "honours"
    """Remembers it with the post, in one step: any number of equal requests at once make one post."""
    IGNORES = "ignores"
    """Takes no notice: each request makes a post."""
    SERIAL = "serial"
    """Remembers it only some time after the post: equal requests at once make several posts."""


class SandboxSettings(BaseSettings):
    """Where the sandbox listens, where it keeps its data, and how it behaves until told otherwise."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=7401, ge=1, le=65535)
    data_dir: Path = Path(".local/sandbox")
    """Created if missing. One running sandbox per directory."""
    public_url: str = ""
    """How clients reach it; part of all URLs that it gives out. Empty: `http://<host>:<port>`."""

    control: bool = True
    """Serve `/control/*`. Off: the network cannot be told to misbehave, nor asked for its log."""
    demo_users: bool = True
    """Create the accounts of the demonstration in an empty network."""

    weibo_redirect_uri: str = "http://127.0.0.1:7400/bound"
    """Where Weibo's app of the demonstration has people sent back to."""

    mode: Mode = Mode.HONOURS
    idempotency_seconds: float = Field(default=3600, gt=0)
    """How long a key is remembered."""
    serial_milliseconds: float = Field(default=20, ge=0)
    """SERIAL mode: from looking for a key to the commit, and again from the commit to remembering the key."""
    media_milliseconds: float = Field(default=0, ge=0)
    """How long an upload is processed: 0 is ready at once (200), more answers 202, then 206, then 200."""
    max_characters: int = Field(default=500, ge=1)
    rate_limit: int = Field(default=100_000, ge=1)
    """API calls per token in 5 minutes. A real server allows 300."""
    seed: int = 1
    """For the dice of faults that bring no seed of their own."""

    @property
    def url(self) -> str:
        return self.public_url.rstrip("/") or f"http://{self.host}:{self.port}"
