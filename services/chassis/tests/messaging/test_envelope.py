"""Reading an event from a message that may hold anything."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numerator.events.v1.accounts_pb2 import AccountBound, AccountUnbound

from services.chassis.messaging.envelope import MAX_BODY, PoisonError, decode
from services.chassis.tests.messaging.helpers import NOON, wire

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
names = st.sampled_from(["id", "type", "subject", "time", "enterprise", "source", "traceparent"])


@pytest.mark.parametrize("message", [AccountUnbound(account="a"), AccountBound(sealed_token=b"\xff")])
def test_decode__what_was_made(message: Any) -> None:
    """An event is read as it was written, in either form of body."""
    body, properties = wire(message, subject="s", event_id="1")
    event = decode(type(message), properties["headers"], properties["content_type"], body)
    assert event.message == message
    assert (event.id, event.subject, event.enterprise, event.time) == ("1", "s", "enterprises/e", NOON)


@pytest.mark.parametrize(
    ("headers", "content_type", "body", "reason"),
    [
        ({"id": ""}, None, None, "MISSING_HEADER"),
        ({"id": 7}, None, None, "INVALID_HEADER"),
        ({"id": "a\0"}, None, None, "INVALID_HEADER"),
        ({"time": "noon"}, None, None, "INVALID_HEADER"),
        ({"enterprise": "somebody"}, None, None, "INVALID_HEADER"),
        ({"type": "accounts.account.bound"}, None, None, "WRONG_TYPE"),
        ({}, "text/plain", None, "UNDECODABLE"),
        ({}, None, b"{", "UNDECODABLE"),
        ({}, None, b"[" * 100_000, "UNDECODABLE"),
        ({}, None, b"\xff\xfe", "UNDECODABLE"),
        ({}, None, b'{"account": 7}', "UNDECODABLE"),
        ({}, None, b" " * (MAX_BODY + 1), "TOO_LARGE"),
        ({}, None, b"{}", "EMPTY"),
        ({}, "application/protobuf", b"", "EMPTY"),
    ],
)
def test_decode__poison(headers: dict, content_type: str | None, body: bytes | None, reason: str) -> None:
    """Each way of being unreadable has its reason."""
    good, properties = wire(AccountUnbound(account="a"))
    with pytest.raises(PoisonError) as raised:
        decode(
            AccountUnbound,
            properties["headers"] | headers,
            content_type or properties["content_type"],
            good if body is None else body,
        )
    assert raised.value.reason == reason


def test_decode__newer_producer() -> None:
    """A field that this release does not know is passed over."""
    _body, properties = wire(AccountUnbound(account="a"))
    event = decode(
        AccountUnbound, properties["headers"], "application/json", b'{"account": "a", "fromTheFuture": 1}'
    )
    assert event.message.account == "a"


@given(
    headers=st.dictionaries(names | st.text(), anything),
    honest=st.booleans(),
    kind=st.sampled_from(["application/json", "application/protobuf"]) | anything,
    body=st.binary() | st.text().map(str.encode) | st.just(b'{"account":{}}'),
)
def test_decode__anything(headers: dict, honest: bool, kind: object, body: bytes) -> None:
    """Whatever comes is an event or poison, never another error."""
    if honest:
        headers = wire(AccountUnbound(account="a"))[1]["headers"] | headers
    with suppress(PoisonError):
        assert decode(AccountUnbound, headers, kind, body).id
