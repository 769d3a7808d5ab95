"""Where tests find servers that already run, and how much they try."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class TestSettings(BaseSettings):
    """
    Settings of the test fixtures.

    Attributes:
        database_url: `TEST_DATABASE_URL`, a PostgreSQL server by its administrator's URL; None: start one.
        amqp_url: `TEST_AMQP_URL`, a RabbitMQ server; None: start one.
        size: `SIZE`, how much of what chance decides is tried: `ci`, or `full`, which takes far longer.

    """

    __test__ = False
    model_config = SettingsConfigDict(env_prefix="TEST_", frozen=True)

    database_url: SecretStr | None = None
    amqp_url: SecretStr | None = None
    size: Literal["ci", "full"] = Field("ci", validation_alias="SIZE")

    def __call__(self, ci: int, full: int) -> int:
        """One of the two numbers, as the size is."""
        return ci if self.size == "ci" else full
