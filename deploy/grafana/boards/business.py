"""What the platform is for: who got in, what went out, what came back."""

from deploy.grafana.expressions import gained, or_zero, per_second, quantile
from deploy.grafana.panels import Board, Limits, Query, Section, Unit, lines, tile

_ADMITTED = "max by (rollout, stage, state) (numerator_rollout_admissions)"

_CUSTOMERS = [
    tile(
        "Companies admitted", Unit.COUNT,
        or_zero('sum(max by (rollout, stage) (numerator_rollout_admissions{state="ACTIVE"}))'),
        "They can use the beta now.",
    ),
    tile(
        "Companies that wait", Unit.COUNT,
        or_zero('sum(max by (rollout, stage) (numerator_rollout_admissions{state="WAITLISTED"}))'),
        "Verified or not, they asked and are not in. Many for long: widen the stage, or tell them why.",
    ),
    tile(
        "Verifications to decide", Unit.COUNT,
        or_zero('sum(max by (state) (numerator_accounts_enterprises{state="PENDING"}))'),
        "Companies that wait for a person of ours.",
        limits=Limits(10, 50),
    ),
    tile(
        "Accounts bound", Unit.COUNT,
        or_zero('sum(max by (network, state) (numerator_accounts_accounts{state="ACTIVE"}))'),
        "Accounts on networks that we may publish to.",
    ),
    tile(
        "Accounts to bind again", Unit.COUNT,
        or_zero('sum(max by (network, state) (numerator_accounts_accounts{state="REAUTH_REQUIRED"}))'),
        "Their binding has ended, so nothing is published on them. Their owners have to be asked.",
        limits=Limits(1, 20),
    ),
    tile(
        "People in the index", Unit.COUNT, or_zero("max(numerator_targeting_people)"),
        "People whom an audience can find.",
    ),
    lines(
        "Companies by stage", Unit.COUNT,
        "ACTIVE are in; SUSPENDED were in. A fall of one with a rise of the other is a roll-back.",
        Query(f"{_ADMITTED} > 0 or on () vector(0)", "{{stage}} {{state}}"),
        width=12,
    ),
    lines(
        "Came in, went out, in the last hour", Unit.COUNT,
        "What became of companies. `suspended` without a decision of ops: a guardrail has tripped; see the board of rollout.",
        Query(or_zero(gained("numerator_rollout_transitions_total", "1h", "kind")), "{{kind}}"),
        width=12,
    ),
]  # fmt: skip

_DELIVERIES = [
    tile(
        "Published in 24 hours", Unit.COUNT,
        or_zero(gained('numerator_publishing_deliveries_ended_total{state="PUBLISHED"}', "24h")),
        "Posts that appeared on a network.",
        width=6,
    ),
    tile(
        "Failed in 24 hours", Unit.COUNT,
        or_zero(gained('numerator_publishing_deliveries_ended_total{state="FAILED"}', "24h")),
        "Posts that will not appear. The reasons are on the board of publishing: rejected texts and ended bindings are the "
        "customer's to mend, everything else is ours (docs/runbook.md, deliveries-published).",
        limits=Limits(1, 10), width=6,
    ),
    tile(
        "Under way", Unit.COUNT, or_zero("sum(max by (state) (numerator_publishing_deliveries))"),
        "Deliveries that are planned, being sent, or looked up.",
        width=6,
    ),
    tile(
        "Nobody knows yet", Unit.COUNT, or_zero('max(numerator_publishing_deliveries{state="UNCONFIRMED"})'),
        "Deliveries whose network did not say what came of them. They are looked up, never sent again blindly; after half an "
        "hour a person has to look (docs/runbook.md, DeliveriesUnconfirmed).",
        limits=Limits(1, 10), width=6,
    ),
    lines(
        "Deliveries that ended, in the last hour", Unit.COUNT,
        "By outcome.",
        Query(or_zero(gained("numerator_publishing_deliveries_ended_total", "1h", "state")), "{{state}}"),
        width=12,
    ),
    lines(
        "From due to sent", Unit.SECONDS,
        "How late deliveries leave. Above 2 seconds: docs/runbook.md, deliveries-on-time.",
        Query(quantile(0.5, "numerator_publishing_lateness_seconds"), "half"),
        Query(quantile(0.95, "numerator_publishing_lateness_seconds"), "95 of 100"),
        width=12,
    ),
]  # fmt: skip

_ANSWERS = [
    tile(
        "Interactions in 24 hours", Unit.COUNT, or_zero(gained("numerator_publishing_interactions_total", "24h")),
        "Comments, mentions, reposts and favourites that came in.",
        width=6,
    ),
    tile(
        "Not answered", Unit.COUNT, or_zero("sum(max by (state) (numerator_publishing_interactions_open))"),
        "Interactions that wait for a company's answer.",
        width=6,
    ),
    tile(
        "Half answered within", Unit.SECONDS,
        or_zero("histogram_quantile(0.5, sum by (le) (numerator_publishing_answer_duration_seconds_bucket)) >= 0"),
        "From an interaction to its answer, all that processes have seen since they started.",
        width=6,
    ),
    tile(
        "95 of 100 answered within", Unit.SECONDS,
        or_zero("histogram_quantile(0.95, sum by (le) (numerator_publishing_answer_duration_seconds_bucket)) >= 0"),
        "From an interaction to its answer, all that processes have seen since they started.",
        width=6,
    ),
]  # fmt: skip

_PLACEMENTS = [
    lines(
        "Decisions by outcome", Unit.PER_SECOND,
        "What pages were told to show. NONE: nothing fits, or a cap or somebody's wish stands against it; the reasons are on "
        "the board of placement.",
        Query(or_zero(per_second("numerator_placement_decisions_total", "outcome")), "{{outcome}}"),
    ),
    lines(
        "Seen, in the last hour", Unit.COUNT,
        "Placements that a person saw, by touchpoint.",
        Query(or_zero(gained("numerator_placement_exposures_total", "1h", "touchpoint")), "{{touchpoint}}"),
    ),
    lines(
        "Signed up, in the last hour", Unit.COUNT,
        "Registrations, by the touchpoint that led to them.",
        Query(or_zero(gained("numerator_placement_registrations_total", "1h", "touchpoint")), "{{touchpoint}}"),
    ),
    lines(
        "Engagement taken in", Unit.PER_SECOND,
        "Reposts, comments, exposures and the like, by kind: what all numbers of customers are made of.",
        Query(or_zero(per_second("numerator_analytics_facts_total", "kind")), "{{kind}}"),
        width=12,
    ),
    lines(
        "Engagement not taken in", Unit.PER_SECOND,
        "By reason. DUPLICATE is normal; any other: whoever sends it has changed something, and should be told.",
        Query(or_zero(per_second("numerator_analytics_rejected_total", "reason")), "{{reason}}"),
        width=12,
    ),
]  # fmt: skip

BOARD = Board(
    uid="numerator-business",
    title="Numerator: business",
    text="For the people who run the beta: admissions, deliveries, answers, decisions.",
    sections=[
        Section("Customers", _CUSTOMERS),
        Section("Deliveries", _DELIVERIES),
        Section("Answers", _ANSWERS),
        Section("Placements and engagement", _PLACEMENTS),
    ],
)
