import pika
import pytest

from deploy.local.rabbitmq import RabbitMQ
from deploy.local.server import ServerError, alive


def test_start__messages_survive_a_restart_and_nothing_is_left(rabbitmq: RabbitMQ) -> None:
    """A broker keeps its durable messages over stop and start; when stopped, broker and name server are gone."""
    rabbitmq.start()
    process = rabbitmq.process()
    assert process is not None
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_publish("", "kept", b"body", pika.BasicProperties(delivery_mode=2), mandatory=True)

    rabbitmq.stop()

    assert not alive(process)
    assert not rabbitmq.running()
    assert not rabbitmq.epmd_running()
    rabbitmq.start()
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        _, _, body = connection.channel().basic_get("kept")
    assert body == b"body"


def test_start__failure_is_told_with_the_log_and_leaves_nothing(rabbitmq: RabbitMQ) -> None:
    """A broker whose name cannot be registered says so, and its name server does not stay behind."""
    rabbitmq.dist_port = rabbitmq.epmd_port

    with pytest.raises(ServerError, match=r"(?s)did not start.*(eaddrinuse|address|in use)"):
        rabbitmq.start()

    assert rabbitmq.process() is None
    assert not rabbitmq.epmd_running()
