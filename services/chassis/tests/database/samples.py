"""Messages of no service, for the chassis' tests: a request, its reply, events."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from numerator.options.v1 import options_pb2

_F = descriptor_pb2.FieldDescriptorProto


def _message(
    name: str, *fields: tuple[str, int, Any], event_type: str = ""
) -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name=name)
    for number, (field, label, kind) in enumerate(fields, start=1):
        reference = {"type": _F.TYPE_MESSAGE, "type_name": kind} if isinstance(kind, str) else {"type": kind}
        message.field.add(name=field, number=number, label=label, **reference)
    if event_type:
        message.options.Extensions[options_pb2.event_type] = event_type
    return message


_ONE, _MANY = _F.LABEL_OPTIONAL, _F.LABEL_REPEATED
_file = descriptor_pb2.FileDescriptorProto(
    name="chassis/tests/samples.proto",
    package="chassis.tests",
    syntax="proto3",
    dependency=[options_pb2.DESCRIPTOR.name, timestamp_pb2.DESCRIPTOR.name],
    message_type=[
        _message("WriteNoteRequest", ("text", _ONE, _F.TYPE_STRING), ("request_id", _ONE, _F.TYPE_STRING)),
        _message("Note", ("name", _ONE, _F.TYPE_STRING), ("number", _ONE, _F.TYPE_INT64)),
        _message(
            "NoteWritten",
            ("note", _ONE, _F.TYPE_STRING),
            ("number", _ONE, _F.TYPE_INT64),
            ("tags", _MANY, _F.TYPE_STRING),
            ("write_time", _ONE, ".google.protobuf.Timestamp"),
            event_type="sample.note.written",
        ),
        _message("NotesListed", ("notes", _MANY, ".chassis.tests.Note"), event_type="sample.notes.listed"),
        _message("NoteSealed", ("seal", _ONE, _F.TYPE_BYTES), event_type="sample.note.sealed"),
        _message("Outer", ("listed", _ONE, ".chassis.tests.NotesListed"), event_type="sample.outer.made"),
        _message("Tree", ("left", _ONE, ".chassis.tests.Tree"), event_type="sample.tree.grown"),
    ],
)
_pool = descriptor_pool.Default()
_pool.Add(_file)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"chassis.tests.{name}"))


WriteNoteRequest = _class("WriteNoteRequest")
Note = _class("Note")
NoteWritten = _class("NoteWritten")
NotesListed = _class("NotesListed")
NoteSealed = _class("NoteSealed")
Outer = _class("Outer")
Tree = _class("Tree")
