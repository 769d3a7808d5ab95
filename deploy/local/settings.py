"""What a person may set for the local platform; everything else is decided in `programs`."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class LocalSettings(BaseSettings):
    """Where to listen, and servers that run already, to be used instead of our own."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    numerator_port_base: Annotated[int, Field(ge=1024, le=65535 - 50)] = 7400
    """The first of the fifty ports that a platform takes; the gateway's."""
    database_url: SecretStr | None = None
    """A PostgreSQL database, under a role that may create roles and schemas."""
    amqp_url: SecretStr | None = None
    """A RabbitMQ."""
