"""Requests to messages: what goes in by path, query and body comes out of the message, and the rest is named."""

import contextlib
import json
from urllib.parse import parse_qsl, urlencode

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue import Method, Shape, read_methods
from gateway.errors import Problem, from_service_error
from gateway.tests.testapi import compiled
from gateway.transcoding import RequestReader, parse_json, query_parameters, render_json
from services.chassis.errors import FieldViolation, Kind, ServiceError

pb = compiled().pb
METHODS = {method.descriptor.name: method for method in read_methods([pb.DESCRIPTOR])}


def reader(name: str, binding: int = 0) -> RequestReader:
    method: Method = METHODS[name]
    return RequestReader(method, method.bindings[binding])


def refused(call, *args) -> Problem:
    with pytest.raises(Problem) as caught:
        call(*args)
    assert caught.value.status == 400
    return caught.value


def test_catalogue__only_annotated_methods():
    """A method without a route is not there; the others know their shape, limits and resume fields."""
    assert "Internal" not in METHODS
    assert METHODS["WatchBoxes"].shape is Shape.EVENTS
    assert METHODS["WatchBoxes"].resume == ("sequence", "after_sequence")
    assert METHODS["FillBoxes"].shape is Shape.UPLOAD
    assert METHODS["ShowBox"].raw_reply
    assert METHODS["CreateBox"].writes
    assert not METHODS["GetBox"].writes
    assert METHODS["OpenBox"].body_bytes == 2000


# --- query

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_TIMES = st.datetimes()


@st.composite
def requests(draw):
    """A ListBoxesRequest with any of what a query can say."""
    message = pb.ListBoxesRequest(
        parent="enterprises/x",
        page_size=draw(st.integers(-(2**31), 2**31 - 1)),
        page_token=draw(_TEXT),
        sizes=draw(st.lists(st.sampled_from([0, 1, 2]), max_size=3)),
        full=draw(st.booleans()),
        serial=draw(st.integers(0, 2**64 - 1)),
        seal=draw(st.binary(max_size=8)),
        factor=draw(st.floats(allow_nan=False)),
        labels=draw(st.lists(_TEXT, max_size=3)),
    )
    if draw(st.booleans()):
        message.filter.city_code = draw(_TEXT)
    if draw(st.booleans()):
        message.filter.range.from_weight = draw(st.integers(-5, 5))
    if draw(st.booleans()):
        message.limit.value = draw(st.integers(-5, 5))
        message.count.value = draw(st.booleans())
    if draw(st.booleans()):
        message.made_after.FromDatetime(draw(_TIMES))
        message.max_age.FromNanoseconds(draw(st.integers(-(10**12), 10**12)))
    return message


def as_query(message, names="json") -> str:
    """The query that says `message`, without its parent: the inverse of the reader, written apart from it."""
    pairs = []

    def walk(value, field, name):
        if isinstance(value, dict):
            for inner, each in value.items():
                walk(each, None, f"{name}.{inner}")
        elif isinstance(value, list):
            pairs.extend((name, each) for each in value)
        elif isinstance(value, bool):
            pairs.append((name, "true" if value else "false"))
        else:
            pairs.append((name, value))

    tree = json_format.MessageToDict(message, preserving_proto_field_name=names == "proto")
    del tree["parent"]
    for name, value in tree.items():
        walk(value, None, name)
    return urlencode(pairs)


@given(requests(), st.sampled_from(["json", "proto"]))
def test_query__leads_back(message, names):
    """Every value of every kind, in either spelling of the names, comes out as it went in."""
    query = parse_qsl(as_query(message, names), keep_blank_values=True)

    result = reader("ListBoxes").read({"parent": "enterprises/x"}, query)

    if message.HasField("filter") and not message.filter.ListFields():
        message.ClearField("filter")  # an empty message cannot be said in a query
    if message.HasField("filter") and message.filter.city_code == "" and not message.filter.HasField("range"):
        message.ClearField("filter")
    assert result == message


@pytest.mark.parametrize(
    ("query", "field", "reason"),
    [
        ("colour=red", "colour", "UNKNOWN_PARAMETER"),
        ("filter=x", "filter", "UNKNOWN_PARAMETER"),
        ("marks=x", "marks", "UNKNOWN_PARAMETER"),
        ("parent=enterprises/y", "parent", "UNKNOWN_PARAMETER"),
        ("filter.cityCode.x=1", "filter.cityCode.x", "UNKNOWN_PARAMETER"),
        ("pageSize=1&pageSize=2", "pageSize", "REPEATED_PARAMETER"),
        ("pageSize=1&page_size=1", "page_size", "REPEATED_PARAMETER"),
        ("pageSize=many", "pageSize", "INVALID"),
        ("pageSize=99999999999", "pageSize", "INVALID"),
        ("sizes=HUGE", "sizes[0]", "INVALID"),
        ("madeAfter=yesterday", "madeAfter", "INVALID"),
        ("maxAge=5", "maxAge", "INVALID"),
        ("full=yes", "full", "INVALID"),
        ("filter.range.fromWeight=x", "filter.range.fromWeight", "INVALID"),
        ("serial=-1", "serial", "INVALID"),
    ],
)
def test_query__refuses_by_name(query, field, reason):
    """A parameter that is unknown, twice there or of the wrong form is named."""
    problem = refused(reader("ListBoxes").read, {"parent": "enterprises/x"}, parse_qsl(query))

    assert [(each.field, each.reason) for each in problem.violations] == [(field, reason)]


def test_query__only_what_is_left():
    """With body "*" nothing is left for the query; with a field as body, the rest is."""
    create, open_box = METHODS["CreateBox"], METHODS["OpenBox"]

    assert query_parameters(open_box, open_box.bindings[0]) == []
    assert {each.name for each in query_parameters(create, create.bindings[0])} == {"boxId", "requestId"}


# --- body


def test_body__field_and_star():
    """The body is a field's value or the rest of the message; both spellings of names are taken."""
    created = reader("CreateBox").read(
        {"parent": "enterprises/x"},
        [("boxId", "b")],
        b'{"displayName": "Tools", "size": "LARGE", "weight": "7", "marks": {"a": "b"}, "contents": [{"what": "saw"}]}',
    )
    opened = reader("OpenBox").read({"name": "enterprises/x/boxes/b"}, [], b'{"request_id": "r"}')

    assert created == pb.CreateBoxRequest(
        parent="enterprises/x",
        box_id="b",
        box=pb.Box(
            display_name="Tools", size=pb.LARGE, weight=7, marks={"a": "b"}, contents=[pb.Content(what="saw")]
        ),
    )
    assert opened == pb.OpenBoxRequest(name="enterprises/x/boxes/b", request_id="r")


def test_body__empty_is_an_empty_message():
    """A verb without arguments needs no `{}`."""
    assert reader("OpenBox").read({"name": "n"}, []) == pb.OpenBoxRequest(name="n")
    assert not reader("CreateBox").read({"parent": "p"}, []).HasField("box")


@pytest.mark.parametrize("body", [b"[]", b"5", b'"x"', b"null"])
def test_body__must_be_an_object(body):
    """Where a message belongs, other JSON is refused."""
    for name in ("CreateBox", "OpenBox"):
        assert refused(reader(name).read, {}, [], body).violations[0].field == "body"


def test_body__path_twice():
    """The body may repeat what the path says, not contradict it."""
    assert reader("OpenBox").read({"name": "n"}, [], b'{"name": "n"}').name == "n"
    problem = refused(reader("OpenBox").read, {"name": "n"}, [], b'{"name": "m"}')
    assert problem.violations[0].field == "name"


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        ('{"colour": 1}', "colour", "UNKNOWN_FIELD"),
        ('{"contents": [{"what": "a"}, {"colour": 1}]}', "contents[1].colour", "UNKNOWN_FIELD"),
        ('{"shelf": {"colour": 1}}', "shelf.colour", "UNKNOWN_FIELD"),
        ('{"weight": "heavy"}', "weight", "INVALID"),
        ('{"weight": 1.5}', "weight", "INVALID"),
        ('{"weight": 1e999}', "weight", "INVALID"),
        ('{"contents": [{"count": "x"}]}', "contents[0].count", "INVALID"),
        ('{"contents": 5}', "contents", "INVALID"),
        ('{"contents": [5]}', "contents[0]", "INVALID"),
        ('{"shelf": 5}', "shelf", "INVALID"),
        ('{"size": "HUGE"}', "size", "INVALID"),
        ('{"displayName": 5}', "displayName", "INVALID"),
        ('{"displayName": "\\ud800"}', "displayName", "INVALID"),
        ('{"createTime": 5}', "createTime", "INVALID"),
        ('{"createTime": "soon"}', "createTime", "INVALID"),
        ('{"marks": []}', "marks", "INVALID"),
        ('{"person": "p", "shelf": {}}', "shelf", "INVALID"),
        ('{"weight": 1, "colour": 1, "fill": "much"}', "colour,fill", "UNKNOWN_FIELD"),
        ('{"marks": {"a": 5}}', "marks[a]", "INVALID"),
    ],
)
def test_body__refuses_by_name(body, field, reason):
    """A wrong field is named by its path in the body."""
    problem = refused(reader("CreateBox").read, {"parent": "p"}, [], body.encode())

    assert [each.field for each in problem.violations] == [f"box.{each}" for each in field.split(",")]
    assert problem.violations[0].reason == reason
    assert "numerator." not in problem.detail


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": 1,}', "line 1, column 9"),
        (b'{\n "a" 1}', "line 2, column 6"),
        (b"\xff", "byte 1 is not UTF-8"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b"[" * 100_000, "nests too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_json__malformed(body, says):
    """What is no JSON is refused with where and why."""
    problem = refused(parse_json, body)

    assert problem.reason == "MALFORMED_JSON"
    assert says in problem.detail


def test_body__too_deep():
    """Nesting is bounded as on the wire."""
    body: dict = {}
    for _ in range(120):
        body = {"boxes": [body]}

    problem = refused(reader("CreateBox").read, {"parent": "p"}, [], json.dumps(body).encode())

    assert "levels deep" in problem.detail


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | _TEXT
    | st.sampled_from(["LARGE", "1s", "2024-01-01T00:00:00Z"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [field.json_name for field in pb.Box.DESCRIPTOR.fields] + ["what", "count", "x", "[a.b]"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON)
def test_body__any_json_is_taken_or_refused(value):
    """Whatever JSON comes, the answer is a message or a 400, never another exception."""
    with contextlib.suppress(Problem):
        reader("CreateBox").read({"parent": "p"}, [], json.dumps(value).encode())


# --- replies


def test_render__json():
    """Replies are lowerCamelCase proto-JSON, with zero values so that a client can tell them from absence."""
    box = pb.Box(name="n", weight=2**60, size=pb.SMALL, display_name="盒")

    value = json.loads(render_json(box))

    assert value == {
        "name": "n",
        "displayName": "盒",
        "size": "SMALL",
        "contents": [],
        "weight": str(2**60),
        "marks": {},
        "seal": "",
        "boxes": [],
        "fill": 0.0,
    }


def test_render__one_field():
    """`response_body` gives one field of the reply."""
    assert json.loads(render_json(pb.Box(contents=[pb.Content(what="saw")]), "contents")) == [
        {"what": "saw", "count": 0}
    ]


def test_query_parameters__are_leaves():
    """Parameters are single values or lists of them; maps and lists of messages are not offered."""
    method = METHODS["ListBoxes"]
    parameters = query_parameters(method, method.bindings[0])

    assert "filter.range.toWeight" in {each.name for each in parameters}
    assert not any(each.name == "marks" for each in parameters)
    assert all(
        each.field.type != FieldDescriptor.TYPE_MESSAGE
        or each.field.message_type.file.package == "google.protobuf"
        for each in parameters
    )


def test_violations__of_a_text_keep_its_names():
    """Fields are named as the JSON has them; what is wrong in a line of a plan, as the plan has it."""
    violations = (
        FieldViolation("variants[2].link_url", "is no address"),
        FieldViolation("guardrails[0].min_samples", "line 20: must be a whole number"),
    )

    problem = from_service_error(
        ServiceError(Kind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "no", violations=violations)
    )

    assert [each.field for each in problem.violations] == ["variants[2].linkUrl", "guardrails[0].min_samples"]
