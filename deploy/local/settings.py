"""What a person may set for the local platform; everything else is decided in `programs`."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class LocalSettings(BaseSettings):
    """Servers that run already, to be used instead of our own."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    database_url: SecretStr | None = None
    """A PostgreSQL database, under a role that may create roles and schemas."""
    amqp_url: SecretStr | None = None
    """A RabbitMQ."""
