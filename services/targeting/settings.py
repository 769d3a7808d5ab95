"""Targeting's settings: the only reader of the environment in this service."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings
from services.targeting.model import ROUNDING


class Settings(ServiceSettings):
    """`TARGETING_*`."""

    model_config = SettingsConfigDict(env_prefix="TARGETING_")

    minimum_audience: int = Field(default=100, ge=ROUNDING)
    """The fewest people that an audience may have. Fewer are never counted out, and never handed on."""
