"""A campaign that everybody may see, and the decisions that it gets: the fuel of events through the public API."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deploy.demo.client import Gateway, Json, Problem, eventually
from tests.world import World

TOUCHPOINT = "SEARCH"
"""The story's own campaigns are elsewhere."""

_ADULTS: Json = {"demographics": {"minAge": 18, "maxAge": 120}}
_QUESTIONS = 1_000
"""In one batch."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """
    People to whom a placement was decided to be shown.

    Attributes:
        feed: the network's own client, which reports what was seen.
        tokens: by decision, each of another person.
    """

    enterprise: str
    placement: str
    feed: Gateway
    tokens: dict[str, str]


@contextmanager
def crowd(world: World, size: int) -> Iterator[Crowd]:
    """Decisions for `size` different people of an audience that was built for it. At the end the campaign ends."""
    story = world.story
    story.ingest_profiles()
    audience = story.owner.post(
        f"/v1/{story.enterprise}/audiences", {"displayName": "Adults", "definition": _ADULTS}
    )["name"]
    story.owner.post(f"/v1/{audience}:build")
    campaign = story.owner.post(
        f"/v1/{story.enterprise}/campaigns",
        {"displayName": "A crowd", "startTime": "2026-01-01T00:00:00Z", "endTime": "2099-01-01T00:00:00Z"},
    )["name"]
    placement = eventually(
        lambda: _placement(story.owner, campaign, audience), what="the audience at placement"
    )
    story.owner.post(f"/v1/{campaign}:start")
    try:
        tokens = eventually(
            lambda: _tokens(world, placement, size), what=f"{size} decisions for the placement"
        )
        yield Crowd(story.enterprise, placement, story.feed, tokens)
    finally:
        story.owner.post(f"/v1/{campaign}:end")


def _placement(owner: Gateway, campaign: str, audience: str) -> str | None:
    wanted = {
        "touchpoint": TOUCHPOINT,
        "format": "NATIVE_POST",
        "audience": audience,
        "dailyCap": 100,
        "creative": {"title": "For everybody"},
    }
    try:
        return str(owner.post(f"/v1/{campaign}/placements", wanted)["name"])
    except Problem as problem:
        if problem.reason != "AUDIENCE_NOT_READY":
            raise
        return None


def _tokens(world: World, placement: str, size: int) -> dict[str, str] | None:
    """The tokens of the first `size` decisions for the placement; None while there are fewer."""
    tokens: dict[str, str] = {}
    with world.story.places.profiles.open(encoding="utf-8") as file:
        people = [f"users/{json.loads(line)['user']}" for line in file]
    for begin in range(0, len(people), _QUESTIONS):
        asked = [{"user": user, "touchpoint": TOUCHPOINT} for user in people[begin : begin + _QUESTIONS]]
        for decision in world.story.feed.post("/v1/decisions:decideBatch", {"requests": asked})["decisions"]:
            if decision.get("placement") == placement:
                tokens[decision["decision"]] = decision["token"]
            if len(tokens) == size:
                return tokens
        if not tokens:
            return None
    return None
