"""The worker's handlers: what the other services tell, as facts, each once."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from numerator.events.v1.placement_pb2 import ExposureRecorded, RegistrationCreated
from numerator.events.v1.publishing_pb2 import (
    DeliveryPublished,
    InteractionAnswered,
    InteractionKind,
    InteractionReceived,
)
from psycopg import errors

from services.analytics.tests.world import KUNLUN, NOON, TIANSHAN, World, made_worker, repost
from services.chassis.database import Tenant
from services.chassis.messaging.envelope import Event

PUBLICATION = f"{TIANSHAN}/publications/1"
BRAND = f"{TIANSHAN}/accounts/brand"
CAMPAIGN = f"{TIANSHAN}/campaigns/suv"
PLACEMENT = f"{CAMPAIGN}/placements/home"


def stamp(seconds: int = 0) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(NOON + timedelta(seconds=seconds))
    return moment


def hear(world: World, handler: str, message: Message, enterprise: str = TIANSHAN) -> None:
    """The worker handles an event of an enterprise."""
    with world.database.transaction(Tenant(enterprise)) as tx:
        getattr(made_worker(), handler)(tx, Event("id", "type", "s", enterprise, datetime.now(UTC), message))


def published(post: str = "77") -> DeliveryPublished:
    return DeliveryPublished(
        delivery=f"{PUBLICATION}/deliveries/1", account=BRAND, network_post_id=post, publish_time=stamp()
    )


def received(
    name: str, kind: InteractionKind = InteractionKind.COMMENT, author: str = "a@x"
) -> InteractionReceived:
    return InteractionReceived(
        interaction=f"{TIANSHAN}/interactions/{name}", kind=kind, account=BRAND, author=author,
        delivery=f"{PUBLICATION}/deliveries/1", interaction_time=stamp(60),
    )  # fmt: skip


def test_published__is_a_post__about_which_files_may_speak(world: World) -> None:
    """It counts once however often it is told, and engagement from a file counts for its publication."""
    for _ in range(2):
        hear(world, "on_delivery_published", published())

    world.ingest([repost("r", "77")])

    rows = world.ask(["posts", "reposts"], ["publication", "account", "post"]).rows
    assert [(list(row.dimensions), list(row.values)) for row in rows] == [
        ([PUBLICATION, BRAND, "77"], [1, 1])
    ]


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        (InteractionKind.REPOST, "reposts"),
        (InteractionKind.COMMENT, "comments"),
        (InteractionKind.FAVOURITE, "favourites"),
        (InteractionKind.MENTION, "engagements"),
    ],
)
def test_received__of_every_kind__is_engagement(world: World, kind: InteractionKind, metric: str) -> None:
    """What people do on the network counts by its kind, for the publication and the account, once."""
    for _ in range(2):
        hear(world, "on_interaction_received", received("1", kind))

    (row,) = world.ask([metric, "engagements", "reach"], ["publication", "account"]).rows
    assert (list(row.dimensions), list(row.values)) == ([PUBLICATION, BRAND], [1, 1, 1])


def test_answered__measures_how_long_people_waited(world: World) -> None:
    """The mean over answers; clocks that disagree make no negative time."""
    for number, (asked, answered) in enumerate([(0, 30), (0, 90), (50, 0)]):
        name = f"{TIANSHAN}/interactions/{number}"
        told = InteractionAnswered(
            interaction=name, account=BRAND, interaction_time=stamp(asked), answer_time=stamp(answered)
        )
        hear(world, "on_interaction_answered", told)
        hear(world, "on_interaction_answered", told)

    assert list(world.ask(["answers", "response_seconds"]).rows[0].values) == [3, 40]


def test_exposures_and_registrations__count_for_their_campaign(world: World) -> None:
    """A decision's exposure once, a registration once, by placement and campaign."""
    for user in ("u1", "u2", "u1"):
        told = ExposureRecorded(placement=PLACEMENT, user=user, decision=f"d-{user}", exposure_time=stamp())
        hear(world, "on_exposure_recorded", told)
    registration = RegistrationCreated(
        registration=f"{CAMPAIGN}/registrations/1", placement=PLACEMENT, user="u1", create_time=stamp(5)
    )
    for _ in range(2):
        hear(world, "on_registration_created", registration)

    (row,) = world.ask(["exposures", "reach", "registrations"], ["campaign", "placement"]).rows
    assert (list(row.dimensions), list(row.values)) == ([CAMPAIGN, PLACEMENT], [2, 2, 1])


def test_event__of_another_enterprise__changes_nothing(world: World) -> None:
    """An event in the name of one enterprise cannot count for another: row-level security refuses it."""
    with pytest.raises(errors.InsufficientPrivilege):
        hear(world, "on_delivery_published", published(), KUNLUN)

    assert not world.rows("fact_ids")
    assert world.newest() == 0
