"""What the story needs to know to be played on a platform that runs elsewhere, from `DEMO_*`."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import EnvironmentSettings


class Settings(EnvironmentSettings):
    """Where the story is played, and with which keys. Secrets may be given as `*_FILE`, the path of a file."""

    model_config = SettingsConfigDict(env_prefix="DEMO_")

    gateway_url: str
    """Where the gateway answers."""
    network_url: str
    """The sandbox network, as services and the story both reach it."""
    operator_secret: SecretStr
    """Of the OAuth2 client `operator`."""
    operators: Mapping[str, SecretStr]
    """Of further staff, by OAuth2 client: `reviewer` approves what `operator` proposes."""
    network_secret: SecretStr
    """Of the OAuth2 client `network`."""
    webhooks_sender: str
    """The host that sends webhooks, as it is called here. The story listens on the address from which it reaches that host."""
    profiles: Annotated[int, Field(ge=1000, le=1_000_000)] = 20_000
    """How many people the network has."""
