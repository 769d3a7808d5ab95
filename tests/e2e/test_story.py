"""The whole story on a platform of its own, told twice: on nothing, and on what the first telling has left."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from deploy.demo.client import Json, eventually
from tests.world import World, fresh_world, world_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Telling:
    """
    A story that has been told.

    Attributes:
        number: how many tellings there were so far, this one included.
        results: what came of it.
        posts: what the network's own log has of it.
        counted: registrations and answers of all tellings so far, as analytics has them.
    """

    number: int
    world: World
    results: Json
    posts: list[Json]
    counted: list[float]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A platform without data; that nothing is left running at the end is checked as it stops."""
    with fresh_world("e2e", 8050) as world:
        yield world


def tell(number: int, world: World) -> Telling:
    before = world.last_published()
    results = world.story.play()

    def counted() -> list[float] | None:
        values: list[float] = world.story._query(["registrations", "answers"])[0]["values"]
        return values if min(values) >= number else None

    return Telling(
        number,
        world,
        results,
        world.published(after=before),
        eventually(counted, what="the numbers of all tellings"),
    )


@pytest.fixture(scope="module")
def first(world: World) -> Telling:
    """The story on a platform that knows nobody."""
    return tell(1, world)


@pytest.fixture(scope="module")
def second(first: Telling) -> Telling:
    """The story again, told by a newcomer to the same platform."""
    return tell(2, world_of(first.world.platform))


@pytest.fixture(params=["first", "second"])
def told(request: pytest.FixtureRequest) -> Telling:
    """Each telling."""
    return request.getfixturevalue(request.param)


def test_admission__unverified_company_is_told_why_and_what_to_do(told: Telling) -> None:
    """The verified company is in the first stage; the other gets 403 with the reason and the next step."""
    problem = told.results["waitlist_problem"]

    assert told.results["stage"] == "private-beta"
    assert (problem["status"], problem["reason"]) == (403, "NOT_ADMITTED")
    assert problem["admission"]["reason"] == "NOT_VERIFIED"
    assert ":requestVerification" in problem["admission"]["nextStep"]


def test_page__shows_the_module(told: Telling) -> None:
    """The public page is there for anybody, with this telling's module on it."""
    assert told.world.story.mark in told.world.story.public.page(
        "/pages/" + told.world.story.enterprise.split("/")[1]
    )


def test_people__are_taken_in_and_found(told: Telling) -> None:
    """Bad lines are told by number; the audience is as large as was estimated, to the ten."""
    assert told.results["profiles"] == {"accepted": 3_000, "rejected": ["1", "2"]}
    assert told.results["audience_size"] > 0
    assert told.results["audience_size"] // 10 == told.results["estimate"] // 10


def test_decisions__show_the_card_to_some_and_nothing_to_others(told: Telling) -> None:
    """Within 300 people there are some inside and some outside of the audience."""
    assert sum(told.results["decisions"].values()) == 300
    assert told.results["decisions"]["PLACEMENT"] > 0
    assert told.results["decisions"]["NONE"] > 0


def test_registration__twice_is_once(told: Telling) -> None:
    """A second click makes no second registration."""
    assert told.results["registrations"] == 1
    assert told.results["registration_repeated"]


def test_publication__is_on_each_account_exactly_once(told: Telling) -> None:
    """Seen by everybody once on three accounts and not on the fourth; the network's own log has nothing but the story's posts."""
    assert told.results["posts_seen"] == {"brand": 1, "dealer": 1, "jobs": 1}
    by_account = Counter(post["account"] for post in told.posts if not post["in_reply_to_id"])
    in_the_tree = {
        "urumqi-service": 1,
        "urumqi-airport": 1,
        "urumqi-north": 1,
        "kashgar-old-town": 1,
        "gansu-news": 2,
    }
    assert by_account == {"tianshan": 1, "tianshan-dealer": 1, "tianshan-jobs": 1} | in_the_tree


def test_interactions__come_back_and_one_is_answered_once(told: Telling) -> None:
    """Two reposts, a favourite and a comment arrive once each; the answer stands once under the post."""
    assert told.results["interactions"] == {"REPOST": 2, "FAVOURITE": 1, "COMMENT": 1}
    assert told.results["answers_seen"] == 1


def test_numbers__add_up(told: Telling) -> None:
    """Ten reposts a minute for five minutes, as sent; registrations and answers of all tellings so far, once each."""
    assert told.results["minutes"] == [10] * 5
    assert told.results["numbers"]["reach"] > 0
    assert told.counted == [told.number, told.number]


def test_widening__needs_somebody_else(told: Telling) -> None:
    """The stage holds until another operator has approved, whatever its author says."""
    assert told.results["held"] == "HOLD_NOT_MET"


def test_rollback__closes_the_wider_stage_only(told: Telling) -> None:
    """Who came in with the wider stage is out again; who was in before stays."""
    assert told.results["rolled_back"] == "STAGE_ROLLED_BACK"
    assert told.results["rolled_back_by"] == "GUARDRAIL"
    assert told.results["audit_ok"]


def test_invitations__each_row_says_what_came_of_it(told: Telling) -> None:
    """Ten of twelve accounts of two networks are bound; one holder did not agree, one logged in as another company's account."""
    invited = told.results["invited"]
    assert len(invited) == 12
    assert Counter(invited.values()) == {"BOUND": 10, "AUTHORIZATION_DENIED": 1, "ACCOUNT_BOUND_ELSEWHERE": 1}
    assert invited["@lanzhou-west on mastodon"] == "AUTHORIZATION_DENIED"
    assert invited["@dunhuang on mastodon"] == "ACCOUNT_BOUND_ELSEWHERE"
    assert {invited["@tianshan on weibo"], invited["@urumqi-north on weibo"]} == {"BOUND"}


def test_rights__are_as_explained(told: Telling) -> None:
    """What is explained is what happens: each may publish in one province. Who cannot see an account does not find it."""
    assert told.results["password_alone"] == "TOTP_REQUIRED"
    assert told.results["rights"] == {
        "Gulnar on @urumqi-service": [True, "PUBLISHED"],
        "Gulnar on @gansu-news": [False, "OUT_OF_REACH"],
        "the agency on @urumqi-service": [False, "NOT_FOUND"],
        "the agency on @gansu-news": [True, "PUBLISHED"],
    }


def test_app__publishes_in_its_group_only(told: Telling) -> None:
    """A scope in one group is one in no other."""
    assert told.results["app"] == {"@urumqi-airport": "PUBLISHED", "@gansu-news": "OUT_OF_REACH"}


def test_webhooks__are_signed_as_the_standard_says(told: Telling) -> None:
    """The standard's own library takes them, with both secrets while they change, and with no other."""
    receiver = told.world.story.receiver
    first, second = map(Webhook, receiver.secrets)
    published, ping = (
        next(each for each in receiver.believed if each.event["type"] == kind)
        for kind in ("publishing.delivery.published", "test.ping")
    )
    assert first.verify(published.body, dict(published.headers)) == published.event
    with pytest.raises(WebhookVerificationError):
        second.verify(published.body, dict(published.headers))
    assert first.verify(ping.body, dict(ping.headers)) == second.verify(ping.body, dict(ping.headers))


def test_freeze__holds_one_province_and_nothing_else(told: Telling) -> None:
    """What was under way is listed; what comes meanwhile goes out elsewhere, and in the province once, afterwards."""
    freeze = told.results["freeze"]
    assert freeze["in_flight"] == [["@urumqi-north", "SENDING"]]
    assert freeze["meanwhile"] == {"@kashgar-old-town": ("QUEUED", 0), "@gansu-news": ("PUBLISHED", 1)}
    out = ("PUBLISHED", 1)
    assert freeze["afterwards"] == {"@kashgar-old-town": out, "@gansu-news": out, "@urumqi-north": out}


def test_lost_token__is_told_and_planned_for(told: Telling) -> None:
    """The account needs its holder again, and is first in the plan."""
    lost = told.results["lost"]
    assert (lost["failed"], lost["state"], lost["health"]) == ("REAUTH_REQUIRED",) * 3
    assert lost["planned"][0] == "kashgar-rental"


def test_parting__takes_effect_within_seconds(told: Telling) -> None:
    """The access token that the app still has is refused."""
    assert told.results["parted"]["reason"] == "TOKEN_REVOKED"
    assert told.results["parted"]["seconds"] < 60


def test_trail__has_the_deeds_and_the_reading_of_tokens(told: Telling) -> None:
    """What this telling did to accounts, people and apps; which tokens publishing got, and which was opened, by whom and why."""
    deeds = {
        "account.bound",
        "account.unbound",
        "binding.refused",
        "grant.created",
        "client.created",
        "client.deleted",
    }
    assert deeds <= set(told.results["trail"])
    assert ["holder by link", "token.handed_over", "publishing"] in told.results["tokens"]
    assert any(action == "token.read" for _, action, _ in told.results["tokens"])
