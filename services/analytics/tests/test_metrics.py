"""What analytics tells of its own work moves with what is done."""

from services.analytics import metrics
from services.analytics.model import Kind
from services.analytics.tests.world import World, fact, post, repost
from services.chassis.testing.measures import counted, measured


def test_facts__count_by_kind_and_what_is_skipped_by_reason(world: World) -> None:
    """Of files and of events; what was known counts as a duplicate."""
    name, rejected = "numerator_analytics_facts_total", "numerator_analytics_rejected_total"

    with (
        counted(1, name, kind="post"),
        counted(2, name, kind="repost"),
        counted(2, name, kind="exposure"),
        counted(1, rejected, reason="DUPLICATE"),
        counted(1, rejected, reason="UNKNOWN_POST"),
    ):
        world.ingest([post(), repost("r1"), repost("r2"), repost("r1"), repost("r3", of="elsewhere")])
        world.remember([fact("e1", Kind.EXPOSURE), fact("e2", Kind.EXPOSURE), fact("e1", Kind.EXPOSURE)])


def test_store__tells_its_rows_its_lag_and_how_long_it_takes(world: World) -> None:
    """Rows are in when they are followed; then nothing is behind."""
    metrics.watch(world.columns)
    with (
        counted(1, "numerator_analytics_query_duration_seconds_count"),
        counted(1, "numerator_follower_changes_total", log="facts"),
    ):
        world.ingest([post(), repost("r1")])
        world.ask()

    assert measured("numerator_analytics_rows") == 2
