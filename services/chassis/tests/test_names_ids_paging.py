"""Names, ids, pages and clocks."""

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.clock import FixedClock, SystemClock
from services.chassis.errors import ServiceError
from services.chassis.ids import deterministic_id, new_id
from services.chassis.names import NamePattern, enterprise_of
from services.chassis.paging import decode_token, encode_token, page_size

ACCOUNT = NamePattern("enterprises/{enterprise}/accounts/{account}")
IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@given(IDS, IDS)
def test_name_pattern__parses_what_it_formats(enterprise, account):
    """Formatting and parsing are each other's inverse."""
    name = ACCOUNT.format(enterprise=enterprise, account=account)

    assert ACCOUNT.parse(name) == {"enterprise": enterprise, "account": account}
    assert enterprise_of(name) == f"enterprises/{enterprise}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "enterprises/a",
        "enterprises/a/accounts/",
        "enterprises/a/accounts/b/c",
        "enterprises/A/accounts/b",
        "enterprises/a/accounts/b\n",
        "enterprises/-/accounts/b",
        "enterprises/a/accounts/" + "b" * 64,
        "x/enterprises/a/accounts/b",
        "enterprises/a/accounts/\u0663",
    ],
)
def test_name_pattern__refuses_other_forms(name):
    """A name of another form is INVALID_ARGUMENT and names the field."""
    with pytest.raises(ServiceError) as refused:
        ACCOUNT.parse(name, field="account")

    assert refused.value.violations[0].field == "account"


@pytest.mark.parametrize(
    "ids",
    [
        {"enterprise": "a"},
        {"enterprise": "a", "account": "b/c"},
        {"enterprise": "a", "account": "b", "other": "c"},
    ],
)
def test_name_pattern__does_not_format_nonsense(ids):
    """Missing ids, ids that are none, and ids too many are a programmer's error."""
    with pytest.raises(ValueError):
        ACCOUNT.format(**ids)


@pytest.mark.parametrize(
    ("name", "enterprise"),
    [
        ("enterprises/a", "enterprises/a"),
        ("rollouts/r", None),
        ("enterprises/", None),
        ("", None),
        ("enterprisesx/a", None),
    ],
)
def test_enterprise_of__knows_resources_of_the_platform(name, enterprise):
    """Only names that begin with an enterprise belong to one."""
    assert enterprise_of(name) == enterprise


def test_new_id__is_short_unique_and_sorted_by_time():
    """Ids have 26 characters of the alphabet, do not repeat, and later milliseconds sort later."""
    ids = [new_id() for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert all(len(each) == 26 and set(each) <= set("0123456789abcdefghjkmnpqrstvwxyz") for each in ids)
    assert [each[:10] for each in ids] == sorted(each[:10] for each in ids)


def test_deterministic_id__is_stable():
    """The id of some parts never changes: it is stored on other people's systems (golden value)."""
    assert deterministic_id("delivery", "1") == "6n9k9w1s4s168v8xs3j6xtc1js"


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_deterministic_id__differs_when_the_parts_differ(one, other):
    """Parts are not run together: ("ab", "c") is not ("a", "bc")."""
    assert (deterministic_id(*one) == deterministic_id(*other)) == (one == other)


@pytest.mark.parametrize(("requested", "size"), [(0, 50), (1, 1), (500, 500), (501, 500), (2**31 - 1, 500)])
def test_page_size__has_a_default_and_a_maximum(requested, size):
    """0 means the default, too many mean the maximum."""
    assert page_size(requested) == size


def test_page_size__refuses_negative_sizes():
    """A negative size is INVALID_ARGUMENT."""
    with pytest.raises(ServiceError) as refused:
        page_size(-1)

    assert refused.value.violations[0].field == "page_size"


KEPT = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.integers(-(2**63), 2**63 - 1),
)


@given(st.lists(KEPT, min_size=1, max_size=4), st.text())
def test_page_token__gives_back_the_key(after, query):
    """A token holds the sort key of the last item, whatever it is."""
    assert decode_token(encode_token(after, query=query), [*map(type, after)], query=query) == tuple(after)


@given(st.datetimes(timezones=st.timezones()))
def test_page_token__gives_back_a_time(time):
    """A time is a text, and one that the database can read."""
    token = encode_token([time.isoformat(), "x"], query="things")

    assert decode_token(token, (datetime, str), query="things") == (time.isoformat(), "x")


@pytest.mark.parametrize(
    ("key", "kinds"),
    [
        ([1], (str,)),
        (["1"], (int,)),
        ([True], (int,)),
        ([1 << 63], (int,)),
        ([1.5], (int,)),
        ([None], (str,)),
        (["a\0b"], (str,)),
        (["\ud800"], (str,)),
        (["soon"], (datetime,)),
        (["2026-W01-1T00:00:00+00:00"], (datetime,)),
        ([], (int,)),
        ([1, 2], (int,)),
    ],
)
def test_page_token__that_somebody_has_made__is_refused(key, kinds):
    """A token whose check is right, and whose key is no place in the list."""
    with pytest.raises(ServiceError) as refused:
        decode_token(encode_token(key, query="things"), kinds, query="things")
    assert refused.value.violations[0].reason == "PAGE_TOKEN_INVALID"


def test_page_token__belongs_to_its_query():
    """A token of another query, a changed one and nonsense are INVALID_ARGUMENT; an empty one is the first page."""
    token = encode_token(["x", 1], query="things of a")
    raw = bytearray(base64.urlsafe_b64decode(token + "=="))
    raw[-2] ^= 1
    changed = base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")

    assert decode_token("", (int,), query="anything") is None
    for wrong, query in [
        (token, "things of b"),
        (changed, "things of a"),
        ("é", "things of a"),
        ("x", "things of a"),
        (token + "!", "things of a"),
    ]:
        with pytest.raises(ServiceError) as refused:
            decode_token(wrong, (str, int), query=query)
        assert refused.value.violations[0].reason == "PAGE_TOKEN_INVALID"


def test_page_token__is_bound_to_the_request_but_its_page():
    """As a query, a request counts with all fields that are not about paging."""
    token = encode_token([1], query=ErrorInfo(reason="a"))

    assert decode_token(token, (int,), query=ErrorInfo(reason="a")) == (1,)
    with pytest.raises(ServiceError):
        decode_token(token, (int,), query=ErrorInfo(reason="b"))


def test_clocks__tell_utc():
    """Clocks give aware UTC times; the fixed one moves when told."""
    fixed = FixedClock(datetime(2026, 1, 1, 8, tzinfo=timezone(timedelta(hours=8))))
    before = fixed.now()
    fixed.advance(timedelta(minutes=1))

    assert before == datetime(2026, 1, 1, tzinfo=UTC)
    assert fixed.now() - before == timedelta(minutes=1)
    assert SystemClock().now().tzinfo is UTC
    with pytest.raises(ValueError):
        FixedClock(datetime(2026, 1, 1))  # noqa: DTZ001
