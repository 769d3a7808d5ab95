"""Placement's settings: the only reader of the environment in this service."""

from datetime import timedelta

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`PLACEMENT_*`."""

    model_config = SettingsConfigDict(env_prefix="PLACEMENT_")

    token_key: SecretStr
    """Signs decisions' tokens; at least 32 characters. A new key makes all tokens that are out worthless."""
    token_life: timedelta = timedelta(minutes=30)
    """How long after a decision its exposure and registration are taken."""
