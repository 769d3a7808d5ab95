"""The first look: is it well, and if not, where."""

from deploy.grafana.expressions import PROBES, or_zero, per_second
from deploy.grafana.panels import Board, Limits, Query, Section, Unit, lines, tile

_NOW = [
    tile(
        "Requests per second", Unit.REQUESTS, "gateway:requests:rate5m",
        "What customers ask of the gateway. Far below what is usual at this hour: look at the balancer first "
        "(docs/runbook.md, GatewayUnreachable).",
    ),
    tile(
        "Requests that failed", Unit.SHARE, "gateway:request_errors:ratio5m",
        "The share that ended in an error of ours, over five minutes. Red: the gateway's board says on which route, and "
        "below is the service that has errors.",
        limits=Limits(0.001, 0.01),
    ),
    tile(
        "95 of 100 answered within", Unit.SECONDS, "gateway:request_seconds:p95_5m",
        "Streams and uploads left out. Red: find the slow service below.",
        limits=Limits(0.5, 1),
    ),
    tile(
        "Alerts that fire", Unit.COUNT, or_zero('count(ALERTS{alertstate="firing"})'),
        "Each has a chapter in docs/runbook.md that says what to do.",
        limits=Limits(1, 3),
    ),
    tile(
        "Dead letters that wait", Unit.COUNT, or_zero('sum(rabbitmq_detailed_queue_messages{queue=~".*[.]dead"})'),
        "Events that no handler could take. Somebody has to look into them and replay them (docs/runbook.md, DeadLetters).",
        limits=Limits(1, 100),
    ),
    tile(
        "Processes that run", Unit.COUNT, 'sum(up{job="numerator"})',
        "Ours, each replica counted. Fewer than were started: docs/runbook.md, ProcessMissing.",
    ),
]  # fmt: skip

_GATEWAY = [
    lines(
        "Requests by answer", Unit.REQUESTS,
        "4xx is what clients did wrong or may not do: a jump usually follows a change of theirs or ours. 5xx is ours.",
        Query(
            per_second(
                f'http_server_request_duration_seconds_count{{http_route!~"{PROBES}"}}', "http_response_status_code"
            ),
            "{{http_response_status_code}}",
        ),
    ),
    lines(
        "Requests that failed", Unit.SHARE,
        "The share that ended in an error of ours, over five minutes. Above 0.1 % the budget of the month shrinks.",
        Query("gateway:request_errors:ratio5m", "5xx"),
    ),
    lines(
        "How long requests take", Unit.SECONDS,
        "Streams and uploads left out. All three rise: everything is slow, look at saturation below. Only the last rises: "
        "some route is slow, see the gateway's board.",
        Query("gateway:request_seconds:p50_5m", "half"),
        Query("gateway:request_seconds:p95_5m", "95 of 100"),
        Query("gateway:request_seconds:p99_5m", "99 of 100"),
    ),
]  # fmt: skip

_SERVICES = [
    lines(
        "Calls by service", Unit.PER_SECOND,
        "What the gateway asks of each service. One line falls to nothing: that service is away or not ready.",
        Query("service:calls:rate5m", "{{service}}"),
    ),
    lines(
        "Calls that failed, by service", Unit.SHARE,
        "The share that ended in an error of the service's own. Go on to the service's board for the method.",
        Query("service:call_errors:ratio5m", "{{service}}"),
    ),
    lines(
        "95 of 100 calls answered within, by service", Unit.SECONDS,
        "The slowest line is where requests lose their time. Go on to the service's board for the method.",
        Query("service:call_seconds:p95_5m", "{{service}}"),
    ),
    lines(
        "Events that wait for a handler", Unit.COUNT,
        "Saturation of the workers. A line that only rises: handlers are slower than their events come, or retry; see the "
        "service's board.",
        Query('sum by (service) (rabbitmq_detailed_queue_messages{queue=~".*[.]on_.*", queue!~".*[.]dead"})', "{{service}}"),
    ),
    lines(
        "Oldest event that the broker does not have", Unit.SECONDS,
        "Saturation of the outbox. Above 10 seconds: is RabbitMQ there and taking messages? (docs/runbook.md, OutboxStuck)",
        Query("max by (service) (numerator_outbox_lag_seconds)", "{{service}}"),
    ),
    lines(
        "Connections to the database in use", Unit.SHARE,
        "Saturation of the database's pools, the fullest of each service. At 100 % calls and handlers wait "
        "(docs/runbook.md, ConnectionsExhausted).",
        Query(
            "max by (service) (sum by (service, process, instance) (db_client_connection_count)"
            " / sum by (service, process, instance) (db_client_connection_max))",
            "{{service}}",
        ),
    ),
    lines(
        "Requests in progress", Unit.COUNT,
        "Saturation of the gateways; streams count.",
        Query("sum by (instance) (http_server_active_requests)", "{{instance}}"),
    ),
    lines(
        "Calls refused because of overload", Unit.PER_SECOND,
        "Saturation of the api processes: all threads busy. Above zero for minutes: add a replica (docs/runbook.md, "
        "CallsRefused).",
        Query(or_zero(per_second("numerator_rpc_refused_total", "service")), "{{service}}"),
    ),
    lines(
        "Behind the log of changes", Unit.SECONDS,
        "Saturation of what is held in memory: decisions and audiences are as old as this (docs/runbook.md, FollowerBehind).",
        Query("max by (service) (numerator_follower_lag_seconds)", "{{service}}"),
    ),
]  # fmt: skip

_ROLLOUT = [
    lines(
        "Companies by stage and state", Unit.COUNT,
        "Who is in, who waits, who was put out. A fall without a decision of ops: a guardrail has tripped, see the board of "
        "rollout.",
        Query("sum by (stage, state) (max by (rollout, stage, state) (numerator_rollout_admissions))", "{{stage}} {{state}}"),
    ),
    lines(
        "Snapshot that each gateway admits by", Unit.VERSION,
        "All lines lie upon each other, and step up together within two seconds. Apart for a minute: docs/runbook.md, "
        "SnapshotsDiffer.",
        Query("numerator_gateway_snapshot_version", "{{instance}}"),
        Query("max(numerator_rollout_snapshot_version)", "published"),
    ),
    lines(
        "Since each gateway heard from the rollout service", Unit.SECONDS,
        "Below 3 seconds. A line that rises: that gateway reaches neither rollout nor broker and admits by what it has "
        "(docs/runbook.md, SnapshotStale).",
        Query("numerator_gateway_snapshot_staleness_seconds", "{{instance}}"),
    ),
]  # fmt: skip

_OBJECTIVES = [
    lines(
        "How fast error budgets burn, over an hour", Unit.COUNT,
        "At 1 a budget lasts exactly its 30 days; at 14.4 somebody is woken. docs/runbook.md has a chapter for each.",
        Query("slo:burn_rate:1h", "{{slo}} {{service}}"),
        width=12,
    ),
    lines(
        "What is left of the error budgets of 30 days", Unit.SHARE,
        "1 is untouched. Below zero the objective is missed: reliability goes before features until it has recovered.",
        Query("slo:budget_left:30d", "{{slo}} {{service}}"),
        width=12,
    ),
]  # fmt: skip

BOARD = Board(
    uid="numerator-overview",
    title="Numerator: overview",
    text="For everybody who wants to know whether the platform is well.",
    sections=[
        Section("Now", _NOW),
        Section("Gateway", _GATEWAY),
        Section("Services", _SERVICES),
        Section("Rollout", _ROLLOUT),
        Section("Objectives", _OBJECTIVES),
    ],
)
