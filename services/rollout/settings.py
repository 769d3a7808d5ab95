"""Rollout's settings: the only reader of the environment in this service."""

from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`ROLLOUT_*`; what every service has, and nothing of its own yet."""

    model_config = SettingsConfigDict(env_prefix="ROLLOUT_")
