"""Where tests find servers that already run."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class TestSettings(BaseSettings):
    """
    Settings of the test fixtures.

    Attributes:
        database_url: `TEST_DATABASE_URL`, a PostgreSQL server by its administrator's URL; None: start one.
        amqp_url: `TEST_AMQP_URL`, a RabbitMQ server; None: start one.

    """

    __test__ = False
    model_config = SettingsConfigDict(env_prefix="TEST_", frozen=True)

    database_url: SecretStr | None = None
    amqp_url: SecretStr | None = None
