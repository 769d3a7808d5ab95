"""Requests are checked against their contract, all violations at once."""

import math

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import ServiceError
from services.chassis.rpc.status import MAX_VIOLATIONS
from services.chassis.rpc.validation import MAX_DEPTH, RequestValidator


@pytest.fixture
def validators(greeter):
    """The validators of the greeter's methods, by name."""
    return {method.name: RequestValidator(method) for method in greeter.service.methods}


@pytest.fixture
def problems(greeter, validators):
    """`problems(name="x", …)`: what is wrong with a CreateThingRequest that is right but for these fields, by path."""

    def check(**fields) -> dict[str, str]:
        right = {"parent": "enterprises/a", "thing": greeter.pb.Thing(text="x"), "tags": ["t"], "rank": 1}
        try:
            validators["CreateThing"].check(greeter.pb.CreateThingRequest(**{**right, **fields}))
        except ServiceError as error:
            return {each.field: each.description for each in error.violations}
        return {}

    return check


def test_request__that_is_right_passes(problems):
    """A request within its contract has no violations."""
    assert problems() == {}
    assert (
        problems(weight=10, code="ABC", extra={"a": [1, {"b": "c"}]}, related="enterprises/a/things/b") == {}
    )


def test_required__fields_must_be_there(validators, greeter):
    """Texts, messages, lists and optional numbers that are required and missing are told together."""
    with pytest.raises(ServiceError) as refused:
        validators["CreateThing"].check(greeter.pb.CreateThingRequest())

    assert {each.field: each.reason for each in refused.value.violations} == {
        "parent": "REQUIRED", "thing": "REQUIRED", "tags": "REQUIRED", "rank": "REQUIRED",
    }  # fmt: skip


def test_required__zero_is_a_value_of_an_optional_number(problems):
    """A number that can be absent is missing only then."""
    assert problems(rank=0) == {}


@pytest.mark.parametrize(
    ("fields", "path", "description"),
    [
        ({"request_id": "x" * 1001}, "request_id", "at most 1000 characters"),
        ({"request_id": "a\0b"}, "request_id", "NUL"),
        ({"tags": ["ok", "x" * 1001]}, "tags[1]", "at most 1000 characters"),
        ({"tags": ["x"] * 1001}, "tags", "at most 1000 items"),
        ({"weight": -1}, "weight", "at least 0 and at most 10"),
        ({"weight": 11}, "weight", "at least 0 and at most 10"),
        ({"weight": math.nan}, "weight", "finite"),
        ({"weight": math.inf}, "weight", "finite"),
        ({"code": "ABCD"}, "code", "[A-Z]{3}"),
        ({"code": "ABC\n"}, "code", "[A-Z]{3}"),
        ({"schedule_time": Timestamp(seconds=-62_135_596_801)}, "schedule_time", "years 1 and 9999"),
        ({"schedule_time": Timestamp(nanos=-1)}, "schedule_time", "years 1 and 9999"),
        ({"hold": {"seconds": 1, "nanos": -1}}, "hold", "one sign"),
        ({"hold": {"seconds": 315_576_000_001}}, "hold", "10,000 years"),
        ({"parent": "enterprises/a/things/b"}, "parent", "enterprises/*"),
        ({"parent": "enterprises/a b"}, "parent", "enterprises/*"),
        ({"parent": "enterprises/a\n"}, "parent", "enterprises/*"),
        ({"related": "enterprises/a"}, "related", "enterprises/*/things/*"),
        ({"elsewhere": "no name"}, "elsewhere", "resource name"),
        ({"extra": {"a": {"b": "x\0"}}}, "extra.fields['a'].struct_value.fields['b'].string_value", "NUL"),
        ({"thing": {"colour": 9}}, "thing.colour", "one of RED, BLUE"),
        ({"thing": {"colour": -1}}, "thing.colour", "one of RED, BLUE"),
        ({"paint": 0}, "paint", "one of RED, BLUE"),
        ({"palette": [1, 0]}, "palette[1]", "one of RED, BLUE"),
        ({"thing": {"text": "x" * 2001}}, "thing.text", "at most 2000 characters"),
        ({"thing": {"labels": {"k": "v\0"}}}, "thing.labels['k']", "NUL"),
        ({"thing": {"labels": {"k\0": "v"}}}, "thing.labels['k\\x00']", "as a key must not contain the NUL"),
        (
            {"thing": {"parts": [{}, {"parts": [{}, {}, {"text": "\0"}]}]}},
            "thing.parts[1].parts[2].text",
            "NUL",
        ),
        ({"thing": {"parts": [{}] * 4}}, "thing.parts", "at most 3 items"),
    ],
)
def test_limits__name_field_and_fix(problems, fields, path, description):
    """What goes beyond a limit is told by its path and by what would be right, and nothing else is."""
    found = problems(**fields)

    assert list(found) == [path]
    assert description in found[path]


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": "é" * 1000},
        {"thing": {"text": "猫" * 2000, "colour": 0}},
        {"paint": 2, "palette": [1, 2]},
        {"thing": {"data": b"x" * 100_000}},
        {"elsewhere": "enterprises/a/accounts/b"},
        {"schedule_time": Timestamp(seconds=253_402_300_799, nanos=999_999_999)},
        {"hold": {"seconds": -1, "nanos": -1}},
    ],
)
def test_limits__count_characters_and_include_the_last_value(problems, fields):
    """Length is in characters, not bytes; bounds are inclusive; bytes have no limit but the message's."""
    assert problems(**fields) == {}


def test_output_only__is_cleared_at_any_depth(validators, greeter):
    """What the server alone decides is dropped before anybody sees it, even when it is nonsense."""
    wrong = Timestamp(nanos=-1)
    thing = greeter.pb.Thing(create_time=wrong, parts=[greeter.pb.Thing(create_time=wrong)])
    request = greeter.pb.CreateThingRequest(parent="enterprises/a", thing=thing, tags=["t"], rank=1)

    validators["CreateThing"].check(request)

    assert not request.thing.HasField("create_time")
    assert not request.thing.parts[0].HasField("create_time")


def test_page_size__is_not_negative(validators, greeter):
    """A negative page size is refused without anybody declaring it."""
    with pytest.raises(ServiceError) as refused:
        validators["ListThings"].check(greeter.pb.ListThingsRequest(page_size=-1))

    assert refused.value.violations[0].field == "page_size"


def test_depth__has_an_end(problems, greeter):
    """A tree deeper than 32 levels is refused, at the level where it is too deep."""

    def tree(levels: int):
        thing = greeter.pb.Thing()
        for _ in range(levels - 1):
            thing = greeter.pb.Thing(parts=[thing])
        return thing

    assert problems(thing=tree(MAX_DEPTH)) == {}
    found = problems(thing=tree(MAX_DEPTH + 1))
    assert list(found.values()) == ["must not nest deeper than 32 levels"]


def test_violations__are_as_many_as_a_header_can_hold(problems):
    """A thousand wrong items are told as the first fifty."""
    assert len(problems(tags=["\0"] * 1000)) == MAX_VIOLATIONS


def test_stream__asks_for_required_fields_once(validators, greeter):
    """Later messages of a stream need not repeat the parent, but keep the limits."""
    check = validators["UploadThings"].check

    check(greeter.pb.UploadThingsRequest(text="more"), first=False)
    with pytest.raises(ServiceError):
        check(greeter.pb.UploadThingsRequest(text="more"))
    with pytest.raises(ServiceError):
        check(greeter.pb.UploadThingsRequest(text="\0"), first=False)
