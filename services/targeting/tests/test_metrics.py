"""What targeting tells of itself moves with what is done."""

from services.chassis.testing.measures import counted, measured
from services.targeting import metrics
from services.targeting.tests.world import CAMPERS, World, camper


def test_profiles__count_by_what_became_of_them(world: World) -> None:
    """New and changed ones, those that say what is known, and those that cannot be used, with the reason."""
    name = "numerator_targeting_profiles_total"
    world.ingest([camper(1)])

    with (
        counted(2, name, outcome="CHANGED"),
        counted(1, name, outcome="UNCHANGED"),
        counted(1, name, outcome="REJECTED", reason="MALFORMED_JSON"),
    ):
        report = world.ingest(
            b'{"user": "u1", "topics": ["Camping"], "city": "Chengdu", "gender": "f", "age": 30}\n'
            b'{"user": "u2", "topics": ["Camping"]}\n{"user": "u3"}\nnonsense\n'
        )

    assert (report.accepted_count, report.rejected_count) == (3, 1)


def test_audiences__are_measured(world: World) -> None:
    """How long estimates and builds took, and how many people can be found."""
    world.ingest([camper(number) for number in range(20)])
    audience = world.create(CAMPERS)
    metrics.watch(world.index)

    with (
        counted(1, "numerator_targeting_estimate_duration_seconds_count"),
        counted(1, "numerator_targeting_build_duration_seconds_count"),
    ):
        world.estimate(CAMPERS)
        world.build(audience.name)

    assert measured("numerator_targeting_people") == 20
