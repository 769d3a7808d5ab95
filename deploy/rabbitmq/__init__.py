"""RabbitMQ as definitions: what is rendered, applied and checked; see README.md."""
