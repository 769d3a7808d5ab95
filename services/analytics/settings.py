"""Analytics' settings: the only reader of the environment in this service."""

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`ANALYTICS_*`."""

    model_config = SettingsConfigDict(env_prefix="ANALYTICS_")

    store_path: Path = Path(".local/analytics")
    """Where the api process keeps its columnar store. It can be deleted: it is filled again from PostgreSQL."""
