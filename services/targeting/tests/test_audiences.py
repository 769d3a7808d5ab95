"""Audiences by gRPC: described, estimated, built, sampled, archived."""

from datetime import timedelta

import grpc
import pytest
from numerator.events.v1 import targeting_pb2 as events
from numerator.targeting.v1 import targeting_pb2 as pb

from services.chassis.testing.outcomes import field_reasons_of, reason_of, told
from services.chassis.testing.rpc import client, member
from services.targeting.tests.world import CAMPERS, KUNLUN, OWNER, TIANSHAN, World, camper

A = pb.Audience


def test_create__makes_a_draft_that_can_be_read_back(world: World) -> None:
    """As it was described; nobody is in it."""
    created = world.create(CAMPERS)
    assert (created.state, created.size, created.version) == (A.DRAFT, 0, 0)
    assert not created.HasField("build_time")
    assert world.owner.GetAudience(pb.GetAudienceRequest(name=created.name)) == created


def test_create__is_repeated_without_a_second_audience(world: World) -> None:
    """The same request id gives the same answer."""
    assert world.create(CAMPERS, request_id="r-1") == world.create(CAMPERS, request_id="r-1")
    assert len(world.rows("audiences")) == 1


def test_create__names_what_is_wrong(world: World) -> None:
    """By its place in the request; nothing is kept."""
    with pytest.raises(grpc.RpcError) as refused:
        world.create({"all": {"rules": [CAMPERS, {"keywords": {"words": ["?"]}}]}})
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field_reasons_of(refused.value) == {"audience.definition.all.rules[1].keywords.words": "REQUIRED"}
    assert not world.rows("audiences")


def test_list__goes_through_all_pages_newest_first(world: World) -> None:
    """Each once, and only the enterprise's own."""
    made = []
    for _ in range(5):
        made.append(world.create(CAMPERS).name)
        world.clock.advance(timedelta(seconds=1))
    world.create(CAMPERS, member(KUNLUN))
    seen, token = [], ""
    while True:
        request = pb.ListAudiencesRequest(parent=TIANSHAN, page_size=2, page_token=token)
        page = world.owner.ListAudiences(request)
        seen += [each.name for each in page.audiences]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]


def test_estimate__tells_sizes_in_tens_and_no_small_group(world: World) -> None:
    """Largest group first in each dimension; fractions are of the size that is told; what is under ten is left out."""
    world.ingest([camper(n, city="chengdu" if n else "Chengdu", age=25 + n % 2 * 10) for n in range(44)])
    world.ingest([camper(n, city="Wuhan", gender="m", age=70) for n in range(100, 109)])
    world.ingest([{"user": f"v{n}"} for n in range(8)])
    estimate = world.estimate(CAMPERS)
    assert (estimate.size, estimate.population, estimate.too_small) == (50, 61, False)
    shares = [(share.dimension, share.value, share.size, share.fraction) for share in estimate.shares]
    assert shares == [
        ("age", "23-25", 20, 0.4),
        ("age", "30-39", 20, 0.4),
        ("gender", "f", 40, 0.8),
        ("city", "Chengdu", 40, 0.8),
    ]


def test_estimate__never_counts_out_a_small_audience(world: World) -> None:
    """Nine people and none give the same answer."""
    world.ingest([camper(number) for number in range(9)])
    few, none = world.estimate(CAMPERS), world.estimate({"topics": {"values": ["tea"]}})
    assert few == none
    assert (few.too_small, few.size, list(few.shares), few.minimum_size) == (True, 0, [], 10)


def test_build__hands_the_people_over_in_parts_then_says_it_is_complete(world: World) -> None:
    """2,345 people: three parts, each person once with relevance and evidence, all of one ordering key, computed last."""
    world.ingest([camper(number) for number in range(2_345)])
    built = world.build(world.create(CAMPERS).name)
    assert (built.state, built.size, built.version) == (A.READY, 2_340, 1)
    parts = told(world.database, events.AudienceMembersListed)
    assert [(part.audience, part.version, part.part, len(part.members)) for part in parts] == [
        (built.name, 1, 0, 1_000),
        (built.name, 1, 1, 1_000),
        (built.name, 1, 2, 345),
    ]
    members = {member.user: member for part in parts for member in part.members}
    assert members.keys() == {f"users/u{number}" for number in range(2_345)}
    assert members["users/u7"] == events.AudienceMember(
        user="users/u7", relevance=1, evidence=["topic:camping"]
    )
    assert told(world.database, events.AudienceComputed) == [
        events.AudienceComputed(audience=built.name, version=1, size=2_345, parts=3)
    ]
    rows = sorted(world.rows("outbox"), key=lambda row: row["sequence"])
    assert {row["ordering_key"] for row in rows} == {built.name}
    assert {row["enterprise"] for row in rows} == {TIANSHAN}
    assert rows[-1]["type"] == "targeting.audience.computed"


def test_build__again_is_a_new_version(world: World) -> None:
    """With the people of now; a repeated request is not a new one."""
    world.ingest([camper(number) for number in range(20)])
    audience = world.create(CAMPERS).name
    first = world.build(audience, request_id="b-1")
    assert world.build(audience, request_id="b-1") == first
    world.withdraw(3)
    world.ingest([camper(number) for number in range(20, 30)])
    assert (world.build(audience).version, world.rows("audiences")[0]["size"]) == (2, 29)
    listed = told(world.database, events.AudienceMembersListed)[-1]
    assert "users/u3" not in {member.user for member in listed.members}


def test_build__refuses_a_small_audience_and_keeps_the_version_before(world: World) -> None:
    """It would point at people. How small it is is not told."""
    world.ingest([camper(number) for number in range(10)])
    audience = world.create(CAMPERS).name
    world.build(audience)
    world.withdraw(0)
    with pytest.raises(grpc.RpcError) as refused:
        world.build(audience)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(refused.value) == "AUDIENCE_TOO_SMALL"
    told_size = refused.value.details().removeprefix(audience)
    assert "10" in told_size
    assert "9" not in told_size
    kept = world.owner.GetAudience(pb.GetAudienceRequest(name=audience))
    assert (kept.state, kept.version, kept.size) == (A.READY, 1, 10)


def test_audience__of_audiences(world: World) -> None:
    """A rule may name another audience of the enterprise, as it is built now; only a built one that still exists."""
    world.ingest([camper(number, gender="f" if number % 2 else "m") for number in range(40)])
    inner = world.create(CAMPERS).name
    women = {"all": {"rules": [{"audience": inner}, {"demographics": {"genders": ["F"]}}]}}

    def refused(definition: dict) -> str:
        with pytest.raises(grpc.RpcError) as error:
            world.create(definition)
        return reason_of(error.value)

    assert refused(women) == "AUDIENCE_NOT_BUILT"
    assert refused({"audience": f"{TIANSHAN}/audiences/missing"}) == "NOT_FOUND"
    world.build(inner)
    theirs = world.create(CAMPERS, member(KUNLUN)).name
    assert refused({"audience": theirs}) == "NOT_FOUND"
    outer = world.create(women).name
    assert world.build(outer).size == 20
    [part] = told(world.database, events.AudienceMembersListed)[1:]
    assert list(part.members[0].evidence) == [f"audience:{inner.rsplit('/', 1)[1]}", "demographics"]
    world.owner.DeleteAudience(pb.DeleteAudienceRequest(name=inner))
    with pytest.raises(grpc.RpcError) as error:
        world.build(outer)
    assert reason_of(error.value) == "AUDIENCE_ARCHIVED"


def test_sample__says_why_without_a_name(world: World) -> None:
    """Different people, best first, with words instead of posts; nothing leads to a person."""
    definition = {"any": {"rules": [CAMPERS, {"keywords": {"words": ["露营", "SUV"]}}]}}
    text = "周末开着SUV去露营"
    world.ingest([camper(n, posts=[{"id": f"u{n}-0", "text": text}] if n % 2 else []) for n in range(50)])
    audience = world.create(definition).name
    world.build(audience)
    sample = world.owner.SampleAudience(pb.SampleAudienceRequest(name=audience, page_size=20))
    assert len(sample.members) == 20
    told_of = [(round(each.relevance, 2), tuple(each.evidence)) for each in sample.members]
    assert set(told_of) == {(1.0, ("word:露营", "word:suv", "topic:camping")), (0.4, ("topic:camping",))}
    assert told_of == sorted(told_of, key=lambda each: -each[0])


def test_sample__is_of_different_people_who_still_fit(world: World) -> None:
    """As many as there are at most, each once; who changed or withdrew is not shown; never of fewer than ten."""
    world.ingest([camper(n, brands=[f"b{n}"]) for n in range(12)])
    brands = {"brands": {"values": [f"b{n}" for n in range(12)]}}
    audience = world.create(brands).name
    world.build(audience)
    world.withdraw(0)
    world.ingest([camper(1)])
    sample = world.owner.SampleAudience(pb.SampleAudienceRequest(name=audience, page_size=20))
    assert {tuple(each.evidence) for each in sample.members} == {(f"brand:b{n}",) for n in range(2, 12)}
    assert len(sample.members) == 10
    world.withdraw(2)
    with pytest.raises(grpc.RpcError) as refused:
        world.owner.SampleAudience(pb.SampleAudienceRequest(name=audience))
    assert reason_of(refused.value) == "AUDIENCE_TOO_SMALL"


def test_sample__needs_a_built_audience(world: World) -> None:
    """And one that is still in use."""
    audience = world.create(CAMPERS).name
    reasons = []
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as refused:
            world.owner.SampleAudience(pb.SampleAudienceRequest(name=audience))
        reasons.append(reason_of(refused.value))
        world.owner.DeleteAudience(pb.DeleteAudienceRequest(name=audience))
    assert reasons == ["AUDIENCE_NOT_BUILT", "AUDIENCE_ARCHIVED"]


def test_archive__ends_an_audience_and_is_told_once(world: World) -> None:
    """It stays to be read, and cannot be built any more; its people are forgotten."""
    world.ingest([camper(number) for number in range(20)])
    audience = world.create(CAMPERS).name
    world.build(audience)
    for _ in range(2):
        gone = world.owner.DeleteAudience(pb.DeleteAudienceRequest(name=audience))
        assert gone.state == A.ARCHIVED
    assert [each.audience for each in told(world.database, events.AudienceArchived)] == [audience]
    assert world.rows("audiences")[0]["members"] is None
    with pytest.raises(grpc.RpcError) as refused:
        world.build(audience)
    assert reason_of(refused.value) == "AUDIENCE_ARCHIVED"


def test_calls__need_their_rights(world: World) -> None:
    """An analyst estimates and does not build; a partner needs the scope; a member cannot send profiles."""
    analyst, partner = member(TIANSHAN, ["ANALYST"]), client(TIANSHAN, ["audiences.read"])
    assert world.estimate(CAMPERS, analyst).too_small
    for principal, reason in ((analyst, "ROLE_MISSING"), (partner, "SCOPE_MISSING")):
        with pytest.raises(grpc.RpcError) as refused:
            world.create(CAMPERS, principal)
        assert reason_of(refused.value) == reason
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(OWNER).IngestProfiles(iter([pb.IngestProfilesRequest()]))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
