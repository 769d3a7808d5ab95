"""Where the broker is, and who its users are: `RABBITMQ_*`."""

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import EnvironmentSettings


class RabbitMQSettings(EnvironmentSettings):
    """What `apply` and `check` need to know."""

    model_config = SettingsConfigDict(env_prefix="RABBITMQ_")

    management_url: SecretStr
    """The management API with the administrator's name and password, as http://numerator:…@rabbitmq:15672; mostly
    given as RABBITMQ_MANAGEMENT_URL_FILE."""
    definitions: SecretStr
    """What `render` has written; users and password hashes are taken from it. Mostly given as
    RABBITMQ_DEFINITIONS_FILE."""
