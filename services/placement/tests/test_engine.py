"""The engine against a plain reference: the same decisions, whatever happened before."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.placement.engine import Choice, Engine, Fit, LivePlacement
from services.placement.model import Creative, Placement

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
LIFE = timedelta(minutes=30)
PEOPLE, AUDIENCES, CAMPAIGNS, TOUCHPOINTS = ("ann", "bo"), ("a", "b"), ("c", "d"), ("HOME_FEED", "SEARCH")
RELEVANCES = (0.25, 0.5, 1.0)


def live(
    name: str,
    audience: str = "a",
    *,
    touchpoint: str = "HOME_FEED",
    floor: float = 0,
    cap: int = 1,
    age: int = 0,
    starts: int = -1,
    hours: int = 100,
) -> LivePlacement:
    """A placement made `age` hours before noon, whose flight starts `starts` hours after it."""
    made = NOON - timedelta(hours=age)
    placement = Placement(
        name, name[0], touchpoint, "NATIVE_POST", audience, floor, cap, Creative(name), made
    )
    start = NOON + timedelta(hours=starts)
    return LivePlacement(placement, "Sponsored by X", start, start + timedelta(hours=hours))


@dataclass
class Reference:
    """What a decision is, written as plainly as it can be: it looks at everything, each time."""

    audiences: dict[str, dict[str, Fit]] = field(default_factory=dict)
    campaigns: dict[str, list[LivePlacement]] = field(default_factory=dict)
    withdrawn: set[str] = field(default_factory=set)
    impressions: dict[str, tuple[str, str, datetime]] = field(default_factory=dict)
    """By decision: placement, person, and until when it counts."""

    def decide(self, person: str, touchpoint: str, now: datetime) -> tuple[str | None, float, set[str]]:
        """The placement's name, the relevance, and the reasons of a NONE."""
        if person in self.withdrawn:
            return None, 0, {"CONSENT_WITHDRAWN"}
        shown = [
            each
            for placements in self.campaigns.values()
            for each in placements
            if each.placement.touchpoint == touchpoint and each.start_time <= now < each.end_time
        ]
        reasons, fitting = set(), []
        for each in shown:
            fit = self.audiences.get(each.placement.audience, {}).get(person)
            if fit is None:
                continue
            count = sum(
                (placement, whose) == (each.placement.name, person) and until > now
                for placement, whose, until in self.impressions.values()
            )
            if fit.relevance < each.placement.relevance_floor:
                reasons.add("BELOW_FLOOR")
            elif count >= each.placement.daily_cap:
                reasons.add("CAP_REACHED")
            else:
                fitting.append((-fit.relevance, each.placement.create_time, each.placement.name))
        if fitting:
            relevance, _, name = min(fitting)
            return name, -relevance, set()
        return None, 0, reasons or {"NOT_IN_AUDIENCE" if shown else "NO_LIVE_PLACEMENT"}


fits = st.sampled_from(RELEVANCES).map(lambda relevance: Fit(relevance, ("topic:x",)))
placements = st.builds(
    lambda number, **rest: live(f"placement{number}", **rest),
    st.integers(0, 3),
    audience=st.sampled_from(AUDIENCES),
    touchpoint=st.sampled_from(TOUCHPOINTS),
    floor=st.sampled_from((0.0, 0.5)),
    cap=st.integers(1, 3),
    age=st.integers(0, 1),
    starts=st.sampled_from((-1, -1, 1)),
    hours=st.sampled_from((2, 100)),
)
steps = st.one_of(
    st.tuples(
        st.just("audience"), st.sampled_from(AUDIENCES), st.dictionaries(st.sampled_from(PEOPLE), fits)
    ),
    st.tuples(
        st.just("campaign"),
        st.sampled_from(CAMPAIGNS),
        st.lists(placements, max_size=3, unique_by=lambda each: each.placement.name),
    ),
    st.tuples(st.just("withdraw"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("pass"), st.sampled_from((1, 29, 30, 60, 24 * 60 - 1, 24 * 60))),
    st.tuples(st.just("expose"), st.integers(0, 5)),
    st.tuples(st.just("decide"), st.sampled_from(PEOPLE), st.sampled_from(TOUCHPOINTS)),
)


def renamed(campaign: str, given: Iterable[LivePlacement]) -> list[LivePlacement]:
    """Placements of two campaigns never share a name."""
    return [
        replace(each, placement=replace(each.placement, name=campaign + each.placement.name))
        for each in given
    ]


@given(st.lists(steps, max_size=40))
def test_decide__equals_reference(history: list[tuple[Any, ...]]) -> None:
    """After any campaigns, audiences, withdrawals, decisions, exposures and times."""
    engine, reference, now = Engine(), Reference(), NOON
    made: list[tuple[str, str, str]] = []
    # At least four decisions at the end, so that no history is without a question.
    questions = [("decide", person, touchpoint) for person in PEOPLE for touchpoint in TOUCHPOINTS]
    for number, (kind, *step) in enumerate([*history, *questions]):
        match kind, step:
            case "audience", [str(audience), dict(members)]:
                engine.put_audience(audience, members)
                reference.audiences[audience] = members
            case "campaign", [str(campaign), list(given_placements)]:
                these = renamed(campaign, given_placements)
                engine.put_campaign(campaign, these)
                reference.campaigns[campaign] = these
            case "withdraw", [str(person)]:
                engine.withdraw([person])
                reference.withdrawn.add(person)
            case "pass", [int(minutes)]:
                now += timedelta(minutes=minutes)
            case "expose", [int(place)] if place < len(made):
                placement, person, decision = made[-1 - place]
                engine.put_exposure(placement, person, decision, now)
                reference.impressions[decision] = (placement, person, now + timedelta(hours=24))
            case "decide", [str(person), str(touchpoint)]:
                decision = f"decision{number}"
                choice = engine.decide(person, touchpoint, decision, now, LIFE)
                name, relevance, reasons = reference.decide(person, touchpoint, now)
                chosen = choice.placement.placement.name if choice.placement else None
                assert (chosen, choice.relevance) == (name, relevance)
                if chosen is None:
                    assert set(choice.reasons) == reasons
                else:
                    assert choice.reasons == ("INTEREST:topic:x",)
                    made.append((chosen, person, decision))
                    reference.impressions[decision] = (chosen, person, now + LIFE)
            case _:
                pass
    counting = sum(until > now for _, _, until in reference.impressions.values())
    assert sum(map(len, engine._impressions.values())) == counting, "what no longer counts is forgotten"


def decide(engine: Engine, decision: str = "d1", person: str = "ann", now: datetime = NOON) -> Choice:
    return engine.decide(person, "HOME_FEED", decision, now, LIFE)


def engine_with(*placements: LivePlacement, relevance: float = 1.0) -> Engine:
    """An engine with one campaign for everybody in audience `a`."""
    engine = Engine()
    engine.put_audience("a", {person: Fit(relevance, ("word:露营", "topic:camping")) for person in PEOPLE})
    engine.put_campaign("c", placements)
    return engine


def test_decide__says_why() -> None:
    """The evidence, strongest first; without any, that the person is in the audience."""
    engine = engine_with(live("p", cap=2))
    assert decide(engine).reasons == ("INTEREST:word:露营", "INTEREST:topic:camping")
    engine.put_audience("a", {"ann": Fit(0.7, ())})
    assert decide(engine, "d2") == Choice(live("p", cap=2), 0.7, ("IN_AUDIENCE",))


def test_decide__takes_the_floor_exactly() -> None:
    """A person who just reaches the floor is shown the placement."""
    assert decide(engine_with(live("p", floor=0.5), relevance=0.5)).placement is not None
    below = decide(engine_with(live("p", floor=0.5), relevance=0.499))
    assert below == Choice(None, 0, ("BELOW_FLOOR",))


def test_decide__takes_the_oldest_of_those_that_fit_alike() -> None:
    """Whichever of the person's audiences it is for; a better fit comes before age."""
    engine = engine_with(live("p", "a", age=1), live("q", "b", age=2), live("r", "a", age=3, floor=1))
    engine.put_audience("a", {"ann": Fit(0.5, ())})
    engine.put_audience("b", {"ann": Fit(0.5, ())})
    assert decide(engine, "d1").placement == live("q", "b", age=2)
    assert decide(engine, "d2").placement == live("p", "a", age=1)
    engine.put_audience("a", {"ann": Fit(1, ())})
    assert decide(engine, "d3").placement == live("r", "a", age=3, floor=1)


def test_reservation__ends_with_its_token_or_becomes_an_exposure() -> None:
    """Nothing is shown twice at once; what nobody saw is free again after 30 minutes, what was seen after 24 hours."""
    engine = engine_with(live("p"))
    assert decide(engine, "d1").placement
    assert decide(engine, "d2").reasons == ("CAP_REACHED",)
    assert decide(engine, "d3", now=NOON + LIFE - timedelta(seconds=1)).reasons == ("CAP_REACHED",)
    assert decide(engine, "d4", now=NOON + LIFE).placement
    seen = NOON + LIFE + timedelta(minutes=1)
    engine.put_exposure("p", "ann", "d4", seen)
    assert decide(engine, "d5", now=seen + timedelta(hours=24, seconds=-1)).reasons == ("CAP_REACHED",)
    assert decide(engine, "d6", now=seen + timedelta(hours=24)).placement


def test_withdrawal__is_stronger_than_an_audience_that_comes_later() -> None:
    """Also than a new campaign."""
    engine = engine_with(live("p"))
    engine.withdraw(["ann"])
    engine.put_audience("b", {"ann": Fit(1, ())})
    engine.put_campaign("d", [live("q", "b")])
    assert decide(engine) == Choice(None, 0, ("CONSENT_WITHDRAWN",))
    assert decide(engine, person="bo").placement


def test_engine__forgets_what_is_over() -> None:
    """Campaigns that ended and audiences that were dropped leave nothing behind."""
    engine = engine_with(live("p"))
    decide(engine)
    engine.put_campaign("c", ())
    engine.put_audience("a", {})
    assert decide(engine, "d2", now=NOON + LIFE).reasons == ("NO_LIVE_PLACEMENT",)
    assert not engine._fits
    assert not engine._people
    assert not engine._campaigns
    assert not engine._impressions
    assert not any([*engine._at.values(), *engine._for.values()])
