"""Placement's settings: the only reader of the environment in this service."""

from datetime import timedelta

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings
from services.placement.model import EXPOSURES_KEPT


class Settings(ServiceSettings):
    """`PLACEMENT_*`."""

    model_config = SettingsConfigDict(env_prefix="PLACEMENT_")

    token_key: SecretStr = Field(min_length=32)
    """Signs decisions' tokens; at least 32 characters. A new key makes all tokens that are out worthless."""
    token_life: timedelta = Field(default=timedelta(minutes=30), gt=timedelta(), le=EXPOSURES_KEPT)
    """
    How long after a decision its exposure and registration are taken, as `PT30M`. So long the decision counts
    against the cap even if nobody saw it.
    """
