"""Events as bytes: what is sent must be readable for ever, so the bytes themselves are checked."""

import json
from contextlib import suppress

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from services.chassis import events
from services.chassis.tests.database.samples import (
    Note,
    NoteSealed,
    NotesListed,
    NoteWritten,
    Outer,
    Tree,
    WriteNoteRequest,
)


def test_encode__small_events_are_json_golden():
    """A plain event is canonical proto-JSON, without spaces, keys in order, letters as they are."""
    message = NoteWritten(note="notes/1", number=2**60, tags=["越野", "suv"], write_time=Timestamp(seconds=1))

    assert events.encode(message) == (
        "application/json",
        '{"note":"notes/1","number":"1152921504606846976","tags":["越野","suv"],"writeTime":"1970-01-01T00:00:01Z"}'.encode(),
    )


@pytest.mark.parametrize(
    ("message", "golden"),
    [
        (NotesListed(notes=[Note(name="a", number=1)]), b"\x0a\x05\x0a\x01a\x10\x01"),
        (NoteSealed(seal=b"\x00\xff"), b"\x0a\x02\x00\xff"),
        (Outer(listed=NotesListed(notes=[Note(name="a")])), b"\x0a\x05\x0a\x03\x0a\x01a"),
    ],
)
def test_encode__bulk_and_bytes_are_binary_golden(message, golden):
    """A message that holds bytes or a list of messages, at any depth, is sent in protobuf's own encoding."""
    assert events.encode(message) == ("application/protobuf", golden)


def test_encode__recursive_messages_end():
    """A message that may hold itself is looked at once."""
    assert events.encode(Tree(left=Tree())) == ("application/json", b'{"left":{}}')


@given(note=st.text(st.characters(exclude_categories=["Cs"])), number=st.integers(-(2**63), 2**63 - 1))
def test_decode__reverses_encode(note, number):
    """What was encoded comes back equal."""
    for message in (
        NoteWritten(note=note, number=number),
        NotesListed(notes=[Note(name=note, number=number)]),
    ):
        assert events.decode(*events.encode(message), type(message)) == message


def test_decode__passes_over_unknown_fields():
    """An event of a newer producer is read without the fields that this side does not know."""
    assert events.decode("application/json", b'{"note":"n","later":1}', NoteWritten) == NoteWritten(note="n")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"\xff\xfe"),
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b'{"note":1}'),
        ("application/json", b'{"note":"\\ud800"}'),
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"number":"' + b"9" * 10_000 + b'"}'),
        ("application/protobuf", b"\x0a\x05a"),
        ("application/protobuf", b"\x0a\x01\xff"),
        ("text/plain", b"{}"),
    ],
)
def test_decode__anything_else_is_undecodable(content_type, body):
    """Whatever the bytes are, there is one error for all that is no such message."""
    with pytest.raises(events.UndecodableError):
        events.decode(content_type, body, NoteWritten)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["note", "number", "tags", "writeTime"]), inner)
    ),
)


@given(_json)
def test_decode__random_json_is_a_message_or_undecodable(value):
    """No JSON, however its types are mixed up, raises anything but UndecodableError."""
    with suppress(events.UndecodableError):
        events.decode("application/json", json.dumps(value).encode(), NoteWritten)


@given(st.sampled_from(["application/json", "application/protobuf"]), st.binary(max_size=200))
def test_decode__random_bytes_are_a_message_or_undecodable(content_type, body):
    """No bytes raise anything but UndecodableError."""
    with suppress(events.UndecodableError):
        events.decode(content_type, body, NoteWritten)


def test_event_type__is_the_option():
    """The option of the message names the event."""
    assert events.event_type(NoteWritten) == "sample.note.written"


def test_event_type__no_event():
    """A message without the option is a mistake of the programmer."""
    with pytest.raises(TypeError, match="WriteNoteRequest"):
        events.event_type(WriteNoteRequest)
