"""
One board for each service, all from one template.

A new service is a line in `_SERVICES`; what is special about it are panels beside its name.
"""

from collections.abc import Sequence

from deploy.grafana.expressions import SERVER_ERRORS, gained, handler, method, or_zero, per_second, quantile
from deploy.grafana.panels import Board, Panel, Query, Section, Unit, lines

_ACCOUNTS = [
    lines(
        "Companies by verification", Unit.COUNT,
        "PENDING wait for a person of ours.",
        Query("max by (state) (numerator_accounts_enterprises)", "{{state}}"),
        width=6,
    ),
    lines(
        "Accounts by state", Unit.COUNT,
        "REAUTH_REQUIRED rises in steps when a network ends bindings: its owners have to bind again.",
        Query("max by (network, state) (numerator_accounts_accounts)", "{{network}} {{state}}"),
        width=6,
    ),
    lines(
        "Bindings by outcome", Unit.PER_SECOND,
        "Reasons of refusals beside OK. Many of one reason: the network has changed something.",
        Query(or_zero(per_second("numerator_accounts_bindings_total", "network", "outcome")), "{{network}} {{outcome}}"),
        width=6,
    ),
    lines(
        "Logins by outcome", Unit.PER_SECOND,
        "Many refusals: a partner's secret has changed, or somebody tries passwords (docs/runbook.md, LoginsFail).",
        Query(or_zero(per_second("numerator_accounts_logins_total", "kind", "outcome")), "{{kind}} {{outcome}}"),
        width=6,
    ),
    lines(
        "Sessions of members", Unit.COUNT,
        "That have not ended. A fall that nobody decided: sessions were revoked, or refresh tokens used twice; the audit says.",
        Query("max(numerator_accounts_sessions)", "sessions"),
        width=6,
    ),
    lines(
        "Accounts in batches of invitations", Unit.COUNT,
        "INVITED that stay so: holders have not got their links, or do not dare to open them.",
        Query("max by (state) (numerator_accounts_binding_rows)", "{{state}}"),
        width=6,
    ),
    lines(
        "Accounts whose token ends soon", Unit.COUNT,
        "Within a day, or later within a week. Their holders have to authorise them anew (docs/runbook.md, TokensExpire).",
        Query(or_zero("max by (network, within) (numerator_accounts_tokens_expiring)"), "{{network}} {{within}}"),
        width=6,
    ),
    lines(
        "Tokens read, by purpose, in the last hour", Unit.COUNT,
        "`refresh` goes on by itself, `revocation` is an unbinding. Anything else: the audit trail says who reads, and why.",
        Query(or_zero(gained("numerator_accounts_tokens_read_total", "1h", "purpose")), "{{purpose}}"),
        width=6,
    ),
    lines(
        "Refreshes of tokens", Unit.PER_SECOND,
        "By what came of them, ahead of the tokens' ends. A reason that lasts: holders will have to authorise anew.",
        Query(or_zero(per_second("numerator_accounts_token_refreshes_total", "outcome")), "{{outcome}}"),
        width=6,
    ),
    lines(
        "What a rotation of data keys has still to do", Unit.COUNT,
        "Enterprises. A line that does not fall: docs/runbook.md, RotationStuck.",
        Query("max(numerator_accounts_rotation_left)", "enterprises"),
        width=6,
    ),
    lines(
        "What each master key has wrapped", Unit.COUNT,
        "One line; while the key changes two, of which the old one falls to nothing (docs/runbook.md, RotationStuck).",
        Query(or_zero("max by (master_key) (numerator_accounts_keys_wrapped)"), "{{master_key}}"),
        width=6,
    ),
    lines(
        "Age of the revocations at each gateway", Unit.SECONDS,
        "Below 3 seconds. A line that rises: that gateway takes tokens that were revoked (docs/runbook.md, RevocationsStale).",
        Query("numerator_gateway_revocations_age_seconds", "{{instance}}"),
        width=6,
    ),
]  # fmt: skip

_WEBHOOKS = [
    lines(
        "Endpoints by state", Unit.COUNT,
        "FAILING and DISABLED are their owners' to mend; many at once: our way out (docs/runbook.md, WebhooksWait).",
        Query(or_zero("max by (state) (numerator_accounts_webhook_endpoints)"), "{{state}}"),
    ),
    lines(
        "Oldest that is due", Unit.SECONDS,
        "LIVE above a minute: docs/runbook.md, WebhooksWait. FAILING wait for each other; they hold up nobody else.",
        Query("max by (endpoint) (numerator_accounts_webhook_oldest_due_seconds)", "{{endpoint}}"),
    ),
    lines(
        "First attempts and retries", Unit.PER_SECOND,
        "By what came of them. One error that takes over all: it is on our side.",
        Query(
            or_zero(per_second("numerator_accounts_webhook_attempts_total", "retry", "outcome")),
            "retry {{retry}}: {{outcome}}",
        ),
    ),
    lines(
        "Deliveries that ended, in the last hour", Unit.COUNT,
        "FAILED after days of trying. Partners can have them sent again (docs/webhooks.md).",
        Query(
            or_zero(gained("numerator_accounts_webhook_deliveries_ended_total", "1h", "state", "reason")),
            "{{state}} {{reason}}",
        ),
        width=12,
    ),
    lines(
        "95 of 100 taken within", Unit.SECONDS,
        "From an event's arrival until its endpoint took it, of first attempts. Above 2 seconds: the sender is busy.",
        Query(or_zero(f"{quantile(0.95, 'numerator_accounts_webhook_delay_seconds')} >= 0"), "first attempt"),
        width=12,
    ),
]  # fmt: skip

_ROLLOUT = [
    lines(
        "Companies by stage", Unit.COUNT,
        "ACTIVE are in, WAITLISTED wait, SUSPENDED were in.",
        Query("max by (rollout, stage, state) (numerator_rollout_admissions)", "{{rollout}} {{stage}} {{state}}"),
        width=6,
    ),
    lines(
        "State of each rollout", Unit.COUNT,
        "1 for the state that it is in. PAUSED or KILLED without a decision of ops: a guardrail has tripped; the audit says "
        "which.",
        Query("max by (rollout, state) (numerator_rollout_state) > 0", "{{rollout}} {{state}}"),
        width=6,
    ),
    lines(
        "Share of the eligible that is taken", Unit.PERCENT,
        "By rollout; a step is a decision of ops.",
        Query("max by (rollout) (numerator_rollout_percent)", "{{rollout}}"),
        width=6,
    ),
    lines(
        "Newest snapshot", Unit.VERSION,
        "Gateways follow within two seconds (board: overview).",
        Query("max(numerator_rollout_snapshot_version)", "snapshot"),
        Query("max(numerator_rollout_admissions_version)", "admissions"),
        width=6,
    ),
    lines(
        "What holds the stages", Unit.COUNT,
        "1 for what a rollout waits for. Only APPROVALS or PERSON left: somebody has to act.",
        Query("max by (rollout, kind) (numerator_rollout_gates)", "{{rollout}} {{kind}}"),
        width=6,
    ),
    lines(
        "Looks of the guardrails", Unit.PER_SECOND,
        "By what they found and did. PAUSE or ROLLBACK: docs/runbook.md, RolloutStoppedItself.",
        Query(
            or_zero(per_second("numerator_rollout_analyses_total", "rollout", "outcome", "action")),
            "{{rollout}} {{outcome}} {{action}}",
        ),
        width=6,
    ),
    lines(
        "Gateways that serve", Unit.COUNT,
        "By whether they serve the newest; for more than a moment none should serve something older.",
        Query("max by (converged) (numerator_rollout_replicas)", "newest: {{converged}}"),
        width=6,
    ),
    lines(
        "Decision to the slowest gateway", Unit.SECONDS,
        "Milliseconds. Two seconds and more: pushes do not arrive, and gateways ask (RabbitMQ? board: broker).",
        Query("max(numerator_rollout_convergence_lag_seconds)", "slowest"),
        width=6,
    ),
    lines(
        "Companies that wait for a place", Unit.COUNT,
        "By rollout. A quota can be raised in the plan.",
        Query("max by (rollout) (numerator_rollout_waitlist)", "{{rollout}}"),
        width=6,
    ),
    lines(
        "Audit trail", Unit.VERSION,
        "Events, and those that are anchored outside the database: one line above the other (docs/runbook.md, AuditNotAnchored).",
        Query("max(numerator_rollout_audit_head)", "head"),
        Query("max(numerator_rollout_audit_anchored)", "anchored"),
        width=6,
    ),
    lines(
        "Steps of the scheduler", Unit.PER_SECOND,
        "One for each live rollout and worker. None: nothing starts, widens or is rolled back by itself.",
        Query(or_zero(per_second("numerator_rollout_scheduler_steps_total", "outcome")), "{{outcome}}"),
        width=6,
    ),
    lines(
        "flagd clients", Unit.COUNT,
        "In-process providers of other programs that are attached.",
        Query(or_zero("sum(numerator_rollout_flagd_streams)"), "attached"),
        width=6,
    ),
]  # fmt: skip

_PUBLISHING = [
    lines(
        "Deliveries under way", Unit.COUNT,
        "By state. UNCONFIRMED that lasts: the network's timeline cannot be read (docs/runbook.md, DeliveriesUnconfirmed).",
        Query("max by (state) (numerator_publishing_deliveries)", "{{state}}"),
    ),
    lines(
        "Oldest delivery that is due", Unit.SECONDS,
        "Above a few seconds: is the sender there, does its database answer? (docs/runbook.md, DeliveriesWait)",
        Query("max(numerator_publishing_oldest_due_seconds)", "late by"),
    ),
    lines(
        "From due to sent", Unit.SECONDS,
        "Above 2 seconds: docs/runbook.md, deliveries-on-time.",
        Query(quantile(0.5, "numerator_publishing_lateness_seconds"), "half", exemplars=True),
        Query(quantile(0.95, "numerator_publishing_lateness_seconds"), "95 of 100"),
    ),
    lines(
        "Attempts by outcome", Unit.PER_SECOND,
        "SEND or LOOK_UP, and the state after it.",
        Query(per_second("numerator_publishing_outcomes_total", "step", "state"), "{{step}} {{state}}"),
    ),
    lines(
        "What went wrong, by reason", Unit.PER_SECOND,
        "RATE_LIMITED and UNREACHABLE pass; TOKEN_UNREADABLE is a key of ours (docs/runbook.md, deliveries-published).",
        Query(or_zero(per_second('numerator_publishing_outcomes_total{reason!=""}', "reason")), "{{reason}}"),
    ),
    lines(
        "Interactions that came in", Unit.PER_SECOND,
        "Nothing for long while people write: networks are not asked; look at the sender's log.",
        Query(or_zero(per_second("numerator_publishing_interactions_total")), "interactions"),
    ),
    lines(
        "Accounts that a freeze holds", Unit.COUNT,
        "Somebody has stopped them; the audit of publishing says who, and why (docs/runbook.md, A company must stop posting).",
        Query("max(numerator_publishing_accounts_frozen)", "frozen"),
        width=12,
    ),
    lines(
        "Deliveries that a freeze holds", Unit.COUNT,
        "Due, and kept back. They go out when the freeze is lifted, unless somebody cancels them.",
        Query("max(numerator_publishing_deliveries_held)", "held"),
        width=12,
    ),
]  # fmt: skip

_TARGETING = [
    lines(
        "Profiles that came in", Unit.PER_SECOND,
        "REJECTED: the sender has changed something; the reason tells what.",
        Query(or_zero(per_second("numerator_targeting_profiles_total", "outcome", "reason")), "{{outcome}} {{reason}}"),
        width=6,
    ),
    lines(
        "People in the index", Unit.COUNT,
        "Of each replica; they follow the log of changes and lie upon each other.",
        Query("numerator_targeting_people", "{{instance}}"),
        width=6,
    ),
    lines(
        "95 of 100 estimates within", Unit.SECONDS,
        "While somebody looks at the screen: above a second the index is too large for this machine.",
        Query(or_zero(f"{quantile(0.95, 'numerator_targeting_estimate_duration_seconds')} >= 0"), "estimates"),
        width=6,
    ),
    lines(
        "95 of 100 audiences built within", Unit.SECONDS,
        "In the background; nobody waits.",
        Query(or_zero(f"{quantile(0.95, 'numerator_targeting_build_duration_seconds')} >= 0"), "audiences"),
        width=6,
    ),
]  # fmt: skip

_PLACEMENT = [
    lines(
        "Decisions by outcome and reason", Unit.PER_SECOND,
        "A reason that takes over: a cap that is reached, a flight that has ended, or nobody who fits.",
        Query(or_zero(per_second("numerator_placement_decisions_total", "outcome", "reason")), "{{outcome}} {{reason}}"),
        width=6,
    ),
    lines(
        "99 of 100 decided within", Unit.SECONDS,
        "The deciding alone, without the way there. Above a few milliseconds: too many placements for one person.",
        Query(
            or_zero(f"{quantile(0.99, 'numerator_placement_decision_duration_seconds', 'views')} >= 0"), "{{views}}",
            exemplars=True,
        ),
        width=6,
    ),
    lines(
        "What decisions are made from", Unit.COUNT,
        "Campaigns, placements and people in memory. Nothing of one kind: it has not been loaded, see the log.",
        Query("max by (kind) (numerator_placement_live)", "{{kind}}"),
        width=6,
    ),
    lines(
        "Seen and signed up", Unit.PER_SECOND,
        "Exposures and registrations.",
        Query(or_zero(per_second("numerator_placement_exposures_total")), "seen"),
        Query(or_zero(per_second("numerator_placement_registrations_total")), "signed up"),
        width=6,
    ),
]  # fmt: skip

_ANALYTICS = [
    lines(
        "Facts taken in", Unit.PER_SECOND,
        "By kind.",
        Query(or_zero(per_second("numerator_analytics_facts_total", "kind")), "{{kind}}"),
        width=6,
    ),
    lines(
        "Lines not taken in", Unit.PER_SECOND,
        "By reason; DUPLICATE is normal.",
        Query(or_zero(per_second("numerator_analytics_rejected_total", "reason")), "{{reason}}"),
        width=6,
    ),
    lines(
        "Rows in the columnar store", Unit.COUNT,
        "Of each replica; they follow the log of facts and lie upon each other.",
        Query("numerator_analytics_rows", "{{instance}}"),
        width=6,
    ),
    lines(
        "95 of 100 questions answered within", Unit.SECONDS,
        "Above a second people notice: docs/runbook.md, calls.",
        Query(or_zero(f"{quantile(0.95, 'numerator_analytics_query_duration_seconds')} >= 0"), "questions"),
        width=6,
    ),
]  # fmt: skip

_SERVICES: tuple[tuple[str, Sequence[Section]], ...] = (
    ("accounts", [Section("Accounts", _ACCOUNTS), Section("Webhooks", _WEBHOOKS)]),
    ("rollout", [Section("Rollout", _ROLLOUT)]),
    ("publishing", [Section("Publishing", _PUBLISHING)]),
    ("targeting", [Section("Targeting", _TARGETING)]),
    ("placement", [Section("Placement", _PLACEMENT)]),
    ("analytics", [Section("Analytics", _ANALYTICS)]),
)


def _board(service: str, own: Sequence[Section]) -> Board:
    of = f'service="{service}"'
    sections = [
        Section("Calls", _calls(of)),
        Section("Events", _events(of)),
        Section("Processes and database", _processes(of)),
    ]
    return Board(
        uid=f"numerator-{service}",
        title=f"Numerator: {service}",
        text=f"For whoever looks after {service}.",
        sections=[*own, *sections],
    )


def _calls(of: str) -> list[Panel]:
    return [
        lines(
            "Calls by method", Unit.PER_SECOND,
            "What the gateway asks. Nothing at all while there is traffic: not ready, or no address for it.",
            Query(method(per_second(f"rpc_server_call_duration_seconds_count{{{of}}}", "rpc_method")), "{{method}}"),
        ),
        lines(
            "Calls that failed, by method", Unit.PER_SECOND,
            "Errors of the service's own. INTERNAL is a bug, logged once with its trace; UNAVAILABLE is the database or "
            "the broker (docs/runbook.md, calls).",
            Query(
                or_zero(method(per_second(
                    f'rpc_server_call_duration_seconds_count{{{of}, rpc_response_status_code=~"{SERVER_ERRORS}"}}',
                    "rpc_method", "rpc_response_status_code",
                ))),
                "{{rpc_response_status_code}} {{method}}",
            ),
        ),
        lines(
            "95 of 100 answered within, by method", Unit.SECONDS,
            "Exemplars lead to a trace, which shows the slow statement or call.",
            Query(
                method(f"{quantile(0.95, f'rpc_server_call_duration_seconds{{{of}}}', 'rpc_method')} > 0"), "{{method}}",
                exemplars=True,
            ),
        ),
        lines(
            "Calls refused by what clients did", Unit.PER_SECOND,
            "Refusals are no errors of ours. A jump of one kind: a client's new version, or a rule of ours that changed.",
            Query(
                or_zero(per_second(
                    f'rpc_server_call_duration_seconds_count{{{of}, rpc_response_status_code!~"OK|{SERVER_ERRORS}"}}',
                    "rpc_response_status_code",
                )),
                "{{rpc_response_status_code}}",
            ),
            width=12,
        ),
        lines(
            "Calls refused because of overload", Unit.PER_SECOND,
            "All threads are busy. Above zero for minutes: add a replica (docs/runbook.md, CallsRefused).",
            Query(or_zero(method(per_second(f"numerator_rpc_refused_total{{{of}}}", "rpc_method"))), "{{method}}"),
            width=12,
        ),
    ]  # fmt: skip


def _events(of: str) -> list[Panel]:
    return [
        lines(
            "Events handled", Unit.PER_SECOND,
            "Deliveries to each handler, repeated ones included.",
            Query(
                or_zero(handler(per_second(
                    f"messaging_client_consumed_messages_total{{{of}}}", "messaging_destination_name"
                ))),
                "{{handler}}",
            ),
        ),
        lines(
            "95 of 100 handled within", Unit.SECONDS,
            "With their transaction. Slow ones hold up the queue: one event after the other is handled.",
            Query(
                or_zero(handler(
                    quantile(0.95, f"messaging_process_duration_seconds{{{of}}}", "messaging_destination_name") + " > 0"
                )),
                "{{handler}}",
                exemplars=True,
            ),
        ),
        lines(
            "Events that wait", Unit.COUNT,
            "By queue. A line that only rises: the handler is too slow, retries, or is away (docs/runbook.md, QueueGrows).",
            Query(or_zero(f'rabbitmq_detailed_queue_messages{{{of}, queue!~".*[.]dead"}}'), "{{queue}}"),
        ),
        lines(
            "Tried again later", Unit.PER_SECOND,
            "By reason; what a handler needs is away. They are tried for two minutes, then they are dead letters.",
            Query(
                or_zero(per_second(f"numerator_messaging_retries_total{{{of}}}", "numerator_reason")), "{{numerator_reason}}"
            ),
        ),
        lines(
            "Dead letters", Unit.PER_SECOND,
            "Given up, by reason. Each has to be looked into and replayed (docs/runbook.md, DeadLetters).",
            Query(
                or_zero(per_second(f"numerator_messaging_dead_letters_total{{{of}}}", "numerator_reason")),
                "{{numerator_reason}}",
            ),
        ),
        lines(
            "Oldest event that is not sent", Unit.SECONDS,
            "Its age. Above 10 seconds: docs/runbook.md, OutboxStuck.",
            Query(f"max(numerator_outbox_lag_seconds{{{of}}})", "oldest"),
        ),
    ]  # fmt: skip


def _processes(of: str) -> list[Panel]:
    return [
        lines(
            "Processes that run", Unit.COUNT,
            "Replicas of each process. None: docs/runbook.md, ProcessMissing.",
            Query(f'sum by (process) (up{{job="numerator", {of}}})', "{{process}}"),
            width=6,
        ),
        lines(
            "Connections to the database in use", Unit.SHARE,
            "Of those that a process may hold. At 100 % transactions wait: slow statements, or too small a pool "
            "(docs/runbook.md, ConnectionsExhausted).",
            Query(
                f"sum by (process, instance) (db_client_connection_count{{{of}}})"
                f" / sum by (process, instance) (db_client_connection_max{{{of}}})",
                "{{process}} {{instance}}",
            ),
            width=6,
        ),
        lines(
            "99 of 100 transactions got a connection within", Unit.SECONDS,
            "Waiting here is waiting in every call.",
            Query(
                or_zero(f"{quantile(0.99, f'db_client_connection_wait_time_seconds{{{of}}}', 'process')} >= 0"), "{{process}}",
                exemplars=True,
            ),
            width=6,
        ),
        lines(
            "Behind the log of changes", Unit.SECONDS,
            "What is held in memory is as old as this. Above 10 seconds: docs/runbook.md, FollowerBehind.",
            Query(or_zero(f"max by (log, instance) (numerator_follower_lag_seconds{{{of}}})"), "{{log}} {{instance}}"),
            width=6,
        ),
    ]  # fmt: skip


BOARDS: tuple[Board, ...] = tuple(_board(service, own) for service, own in _SERVICES)
"""The boards of all services."""
