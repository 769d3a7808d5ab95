"""RabbitMQ: what flows, what waits, and whether it has room."""

from deploy.grafana.expressions import or_zero, per_second
from deploy.grafana.panels import Board, Limits, Query, Section, Unit, lines, tile

_HEALTH = [
    tile(
        "Messages that wait", Unit.COUNT, "sum(rabbitmq_queue_messages)",
        "In all queues, delays and dead letters included.",
    ),
    tile(
        "Dead letters", Unit.COUNT, or_zero('sum(rabbitmq_detailed_queue_messages{queue=~".*[.]dead"})'),
        "docs/runbook.md, DeadLetters.",
        limits=Limits(1, 100),
    ),
    tile(
        "Queues without a consumer", Unit.COUNT,
        or_zero('count(rabbitmq_detailed_queue_consumers{queue=~".*[.]on_.*", queue!~".*[.]dead"} == 0)'),
        "A worker is away or not ready: docs/runbook.md, QueueWithoutConsumer.",
        limits=Limits(1, 2),
    ),
    tile(
        "Memory", Unit.SHARE,
        "max(rabbitmq_process_resident_memory_bytes / rabbitmq_resident_memory_limit_bytes)",
        "Of what it may use. At 100 % it takes no messages any more (docs/runbook.md, BrokerBlocks).",
        limits=Limits(0.7, 0.9),
    ),
    tile(
        "Free disk", Unit.BYTES, "min(rabbitmq_disk_space_available_bytes)",
        "Below its limit it takes no messages any more (docs/runbook.md, BrokerBlocks).",
        limits=Limits(5e9, 1e9),
    ),
    tile(
        "Connections", Unit.COUNT, "sum(rabbitmq_connections)",
        "A few for each process. A number that only rises: a process connects again and again; its log says why.",
    ),
]  # fmt: skip

_FLOW = [
    lines(
        "Messages in and out", Unit.PER_SECOND,
        "Confirmed should follow received at once. A gap: the broker's disk is slow, or a queue refuses.",
        Query(per_second("rabbitmq_global_messages_received_total"), "received"),
        Query(per_second("rabbitmq_global_messages_confirmed_total"), "confirmed"),
        Query(per_second("rabbitmq_global_messages_delivered_total"), "delivered"),
        Query(per_second("rabbitmq_global_messages_acknowledged_total"), "acknowledged"),
    ),
    lines(
        "Messages that wait, by queue", Unit.COUNT,
        "The ten longest. A handler's queue that only rises: see its service's board.",
        Query(or_zero("topk(10, rabbitmq_detailed_queue_messages > 0)"), "{{queue}}"),
    ),
    lines(
        "Delivered again, or dead", Unit.PER_SECOND,
        "Again: a worker died or was restarted with messages in hand; each is handled once all the same. Dead: a handler "
        "gave up.",
        Query(per_second("rabbitmq_global_messages_redelivered_total"), "again"),
        Query(per_second("rabbitmq_global_messages_dead_lettered_rejected_total"), "rejected"),
        Query(per_second("rabbitmq_global_messages_dead_lettered_delivery_limit_total"), "delivered too often"),
    ),
]  # fmt: skip

BOARD = Board(
    uid="numerator-broker",
    title="Numerator: broker",
    text="For whoever looks after RabbitMQ.",
    sections=[Section("Now", _HEALTH), Section("Flow", _FLOW)],
)
