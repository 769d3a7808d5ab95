"""Decisions by gRPC, and what follows from them: exposures under their cap, registrations within capacity."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from numerator.events.v1 import placement_pb2 as events
from numerator.placement.v1 import placement_pb2 as pb

from services.chassis.database import Database, Follower, Tenant
from services.chassis.errors import ServiceError
from services.chassis.testing.outcomes import field_reasons_of, reason_of, told
from services.placement import store, usecases
from services.placement.api import Memory
from services.placement.engine import Engine
from services.placement.tests.world import AUDIENCE, KUNLUN, LIFE, TIANSHAN, World, parts_of
from services.placement.tokens import Token
from services.placement.worker import Worker

ANN = {"ann": (0.7, ["word:露营", "topic:camping"])}


def test_decide__shows_what_fits_labelled_and_explained(world: World) -> None:
    """To who just reaches the floor; with a token. Somebody else keeps the page as it is, and is told why."""
    placement = world.live(ANN, relevance_floor=0.7)
    decision = world.decide("ann")
    assert (decision.choice, decision.placement) == (pb.Decision.PLACEMENT, placement.name)
    assert decision.label == "Sponsored by Tianshan Motors"
    assert decision.creative == placement.creative
    assert decision.relevance == pytest.approx(0.7)
    assert list(decision.reasons) == ["INTEREST:word:露营", "INTEREST:topic:camping"]
    assert decision.expire_time.ToDatetime() == (world.clock.now() + LIFE).replace(tzinfo=None)
    assert (world.decide("bo").choice, world.decide("bo").reasons) == (pb.Decision.NONE, ["NOT_IN_AUDIENCE"])
    assert world.decide("ann", pb.SEARCH).reasons == ["NO_LIVE_PLACEMENT"]
    assert not world.decide("bo").token


def test_decide__of_many_answers_in_the_order_asked(world: World) -> None:
    """One question twice counts twice."""
    world.live(ANN)
    people = ["bo", "ann", "ann", *(f"u{number}" for number in range(997))]
    asked = [pb.DecideRequest(user=f"users/{person}", touchpoint=pb.HOME_FEED) for person in people]
    decisions = world.feed.DecideBatch(pb.DecideBatchRequest(requests=asked)).decisions
    assert [each.user for each in decisions] == [each.user for each in asked]
    assert [list(each.reasons)[:1] for each in decisions[:3]] == [
        ["NOT_IN_AUDIENCE"],
        ["INTEREST:word:露营"],
        ["CAP_REACHED"],
    ]
    assert len({each.decision for each in decisions}) == 1_000


def test_decide__names_a_bad_question_of_many(world: World) -> None:
    """By its place."""
    asked = [pb.DecideRequest(user="users/ann", touchpoint=pb.HOME_FEED), pb.DecideRequest(user="ann")]
    with pytest.raises(grpc.RpcError) as refused:
        world.feed.DecideBatch(pb.DecideBatchRequest(requests=asked))
    assert field_reasons_of(refused.value) == {
        "requests[1].user": "INVALID",
        "requests[1].touchpoint": "REQUIRED",
    }


def test_decide__follows_what_happens(world: World) -> None:
    """The flight, the campaign's end, a new version of the audience, its end, and a withdrawal."""
    placement = world.live(ANN, daily_cap=100)
    campaign = placement.name.partition("/placements/")[0]

    def reasons() -> list[str]:
        world.settle()
        return list(world.decide("ann").reasons)

    world.audience({"bo": (1, [])}, version=2)
    assert reasons() == ["NOT_IN_AUDIENCE"]
    world.audience({"ann": (1, [])}, version=3)
    assert reasons() == ["IN_AUDIENCE"]
    with world.database.transaction(Tenant(TIANSHAN)) as tx:
        usecases.drop_audience(tx, AUDIENCE)
    assert reasons() == ["NOT_IN_AUDIENCE"]
    world.clock.advance(timedelta(days=7))
    assert reasons() == ["NO_LIVE_PLACEMENT"]
    world.clock.advance(-timedelta(days=7))
    world.owner.EndCampaign(pb.EndCampaignRequest(name=campaign))
    assert reasons() == ["NO_LIVE_PLACEMENT"]
    world.withdraw("ann")
    assert reasons() == ["CONSENT_WITHDRAWN"]


def test_decide__shows_nothing_without_a_sponsor(world: World) -> None:
    """A campaign that goes live before its enterprise's name is here waits for it."""
    world.audience(ANN)
    campaign = world.campaign().name
    world.place(campaign)
    world.start(campaign)
    assert world.decide("ann").reasons == ["NO_LIVE_PLACEMENT"]
    world.name()
    world.settle()
    assert world.decide("ann").label == "Sponsored by Tianshan Motors"


# Exposures


def test_exposure__is_recorded_once_and_counts_a_day(world: World) -> None:
    """However often it is reported: one row, one event, the first time; then the person sees it no more for 24 hours."""
    placement = world.live(ANN)
    decision = world.decide("ann")
    first = world.expose(decision.token)
    world.clock.advance(timedelta(minutes=1))
    assert world.expose(decision.token) == first
    [event] = told(world.database, events.ExposureRecorded)
    assert (event.placement, event.user, event.touchpoint, event.decision) == (
        placement.name, "users/ann", "HOME_FEED", decision.decision,
    )  # fmt: skip
    world.settle()
    world.clock.advance(timedelta(hours=23, minutes=58))
    assert world.decide("ann").reasons == ["CAP_REACHED"]
    world.clock.advance(timedelta(minutes=1))
    assert world.decide("ann").choice == pb.Decision.PLACEMENT


def test_exposure__needs_a_token_that_holds(world: World) -> None:
    """Ours, in time, and of a placement that exists."""
    placement = world.live(ANN)
    token = world.decide("ann").token
    for bad, reason in (
        (token[:-1], "BAD_DECISION_TOKEN"),
        (world.token("d", "ann", placement.name, life=timedelta()), "DECISION_EXPIRED"),
        (world.token("d", "ann", f"{TIANSHAN}/campaigns/x/placements/y"), "NOT_FOUND"),
        (world.token("d", "ann", "placements/y"), "NOT_FOUND"),
    ):
        for call in (world.expose, world.register):
            with pytest.raises(grpc.RpcError) as refused:
                call(bad)
            found = reason_of(refused.value)
            assert reason in {
                found,
                *(field_reasons_of(refused.value).values() if found == "INVALID_ARGUMENT" else ()),
            }
    assert not world.rows("exposures")


def test_exposure__never_exceeds_its_cap(world: World) -> None:
    """Fifty decisions reported at once over two databases' pools, of two people: three each are recorded, no more."""
    placement = world.live(ANN, daily_cap=3).name
    other = Database(world.database.url, schema="placement", clock=world.clock)
    barrier = threading.Barrier(50)

    def report(number: int) -> tuple[str, str]:
        person = "ann" if number % 2 else "bo"
        token = Token(f"d{number}", person, placement, "HOME_FEED", 0)
        barrier.wait()
        try:
            with (other, world.database)[number // 2 % 2].transaction(Tenant(TIANSHAN)) as tx:
                usecases.record_exposure(tx, token)
        except ServiceError as error:
            return person, error.reason
        return person, "recorded"

    with ThreadPoolExecutor(50) as pool:
        outcomes = Counter(pool.map(report, range(50)))
    other.close()
    assert outcomes == {
        ("ann", "recorded"): 3, ("ann", "CAP_REACHED"): 22, ("bo", "recorded"): 3, ("bo", "CAP_REACHED"): 22,
    }  # fmt: skip
    assert len(world.rows("exposures")) == len(told(world.database, events.ExposureRecorded)) == 6


def test_exposure__of_one_decision_at_once(world: World) -> None:
    """Twenty reports of the same decision are one exposure."""
    token = world.token("d1", "ann", world.live(ANN).name)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(world.expose, [token] * 20))
    assert answers == [answers[0]] * 20
    assert len(world.rows("exposures")) == 1


# Registrations


def test_registration__is_made_once_for_person_and_campaign(world: World) -> None:
    """A second click, also from another decision, returns the same; the campaign counts it, one event tells it."""
    placement = world.live(ANN, daily_cap=2)
    campaign = placement.name.partition("/placements/")[0]
    first = world.register(world.decide("ann").token)
    again = world.register(world.decide("ann").token, "Somebody else")
    assert again == first
    assert (first.user, first.display_name, first.placement) == ("users/ann", "Li Na", placement.name)
    assert world.owner.GetCampaign(pb.GetCampaignRequest(name=campaign)).registration_count == 1
    assert [each.registration for each in told(world.database, events.RegistrationCreated)] == [first.name]


def test_registration__never_exceeds_the_capacity(world: World) -> None:
    """A hundred people at once, each twice, for thirty places: thirty have one, the others are told that it is full."""
    placement = world.live(ANN, capacity=30).name
    campaign = placement.partition("/placements/")[0]
    other = Database(world.database.url, schema="placement", clock=world.clock, max_size=20)

    def sign_up(number: int) -> str:
        token = Token("d", f"u{number // 2}", placement, "HOME_FEED", 0)
        try:
            with (other, world.database)[number % 2].transaction(Tenant(TIANSHAN)) as tx:
                return usecases.register(tx, token, "Name").person
        except ServiceError as error:
            return error.reason

    with ThreadPoolExecutor(40) as pool:
        outcomes = Counter(pool.map(sign_up, range(200)))
    other.close()
    assert outcomes.pop("EVENT_FULL") == 140
    assert len(outcomes) == 30
    assert set(outcomes.values()) == {2}
    assert len(world.rows("registrations")) == len(told(world.database, events.RegistrationCreated)) == 30
    assert world.owner.GetCampaign(pb.GetCampaignRequest(name=campaign)).registration_count == 30


def test_registration__is_refused_when_full_or_over(world: World) -> None:
    """Who has a place keeps it."""
    placement = world.live(ANN, capacity=1).name
    token, other = (world.token("d", person, placement) for person in ("ann", "bo"))
    mine = world.register(token)
    for reason in ("EVENT_FULL", "CAMPAIGN_NOT_LIVE"):
        with pytest.raises(grpc.RpcError) as refused:
            world.register(other)
        assert reason_of(refused.value) == reason
        assert world.register(token) == mine
        if reason == "EVENT_FULL":
            world.owner.EndCampaign(pb.EndCampaignRequest(name=placement.partition("/placements/")[0]))


def test_registrations__are_listed_newest_first(world: World) -> None:
    """Page after page, for those who answer them."""
    placement = world.live(ANN).name
    made = []
    for number in range(5):
        made.append(world.register(world.token("d", f"u{number}", placement)))
        world.clock.advance(timedelta(seconds=1))
    seen, token = [], ""
    while True:
        answer = world.owner.ListRegistrations(
            pb.ListRegistrationsRequest(
                parent=placement.partition("/placements/")[0], page_size=2, page_token=token
            )
        )
        seen += answer.registrations
        token = answer.next_page_token
        if not token:
            break
    assert seen == made[::-1]


# The engine's memory


def state_of(engine: Engine) -> dict[str, object]:
    """All that an engine knows for good; reservations are of its process alone."""
    return {
        "fits": engine._fits,
        "people": engine._people,
        "campaigns": {
            name: {each.placement.name: each for each in live} for name, live in engine._campaigns.items()
        },
        "at": {touchpoint: places for touchpoint, places in engine._at.items() if places},
        "for": {key: places for key, places in engine._for.items() if places},
        "withdrawn": engine._withdrawn,
    }


def test_memory__after_a_restart_equals_the_database(world: World) -> None:
    """An engine that loads knows what one knows that followed; exposures count on, so the cap holds over a restart."""
    world.live(ANN, daily_cap=2)
    world.audience({"bo": (0.5, ["x"]), "cy": (1, [])}, f"{KUNLUN}/audiences/a")
    world.audience({"bo": (0.25, [])}, f"{KUNLUN}/audiences/a", version=2)
    world.name(KUNLUN, "Kunlun Tours")
    world.expose(world.decide("ann").token)
    world.expose(world.decide("ann").token)
    world.withdraw("di")
    world.settle()
    engine = Engine()
    after = Memory(world.database, engine).load()
    assert after == world.follower.position
    assert state_of(engine) == state_of(world.engine)
    assert engine._impressions == world.engine._impressions
    choice = engine.decide("ann", "HOME_FEED", "d", world.clock.now(), LIFE)
    assert choice.reasons == ("CAP_REACHED",)


def test_memory__misses_nothing_that_comes_while_it_loads(
    world: World, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., object]
) -> None:
    """What is written after the tables were read is in the log behind the place from which the engine follows."""
    world.live(ANN)
    engine = Engine()
    memory = Memory(world.database, engine)
    read = store.live_campaigns

    def read_late(*arguments: object) -> list[str]:
        found = read(*arguments)  # type: ignore[arg-type]
        monkeypatch.undo()
        world.live({"bo": (1, [])})
        world.audience({"cy": (1, [])}, version=2)
        world.withdraw("di")
        world.expose(world.token("d1", "ann", world.rows("placements")[0]["name"]))
        return found

    monkeypatch.setattr(store, "live_campaigns", read_late)
    follower = Follower(world.database, store.STATE, memory.follow, after=memory.load())
    follower.start()
    try:
        world.settle()
        eventually(lambda: follower.position == world.follower.position)
    finally:
        follower.stop()
    assert state_of(engine) == state_of(world.engine)
    assert engine._impressions == world.engine._impressions


def test_purge__keeps_what_counts(world: World) -> None:
    """Exposures and changes of the last day stay; what is older goes, and analytics has it."""
    placement = world.live(ANN, daily_cap=5).name
    world.expose(world.token("old", "ann", placement))
    world.clock.advance(timedelta(hours=23))
    world.expose(world.token("new", "ann", placement))
    world.clock.advance(timedelta(hours=1, seconds=1))
    Worker().purge(world.database)
    assert [row["decision"] for row in world.rows("exposures")] == ["new"]
    assert len(world.rows("changes")) == 1


def test_audience__parts_carry_what_decisions_say(world: World) -> None:
    """2,500 people in three parts: all of them are there, with their own evidence."""
    people = {f"u{number}": (number / 2_500, [f"word:{number}"]) for number in range(2_500)}
    world.hear(*parts_of(AUDIENCE, people))
    world.name()
    campaign = world.campaign().name
    world.place(campaign)
    world.start(campaign)
    assert world.decide("u2499").reasons == ["INTEREST:word:2499"]
    assert len(world.engine._people[AUDIENCE]) == 2_500
