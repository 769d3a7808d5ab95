"""What the tools of this package read from the environment."""

from services.chassis.settings import AmqpUrl, EnvironmentSettings


class BrokerSettings(EnvironmentSettings):
    """Where the broker is."""

    amqp_url: AmqpUrl
    """`AMQP_URL`, or the file named by `AMQP_URL_FILE`."""
