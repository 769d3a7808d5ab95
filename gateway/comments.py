"""The protos' comments, by full name: the descriptions of the OpenAPI document."""

from collections.abc import Iterator, Mapping

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

Path = tuple[int, ...]


def read_comments(descriptors: bytes) -> Mapping[str, str]:
    """
    The comments in a FileDescriptorSet with source information, as the stubs' `descriptors.binpb` is.

    Keys are full names: of services, methods, messages, fields, enums and enum values (`package.Enum.VALUE`).
    """
    comments: dict[str, str] = {}
    for file in FileDescriptorSet.FromString(descriptors).file:
        names = dict(_names(file))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name and location.leading_comments:
                lines = (line.removeprefix(" ").rstrip() for line in location.leading_comments.splitlines())
                comments[name] = "\n".join(lines).strip()
    return comments


def _names(file: FileDescriptorProto) -> Iterator[tuple[Path, str]]:
    """The place of every named thing, as descriptor.proto numbers its fields."""
    for index, message in enumerate(file.message_type):
        yield from _of_message(message, (4, index), file.package)
    for index, enum in enumerate(file.enum_type):
        yield from _of_enum(enum, (5, index), file.package)
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield (6, index), name
        for number, method in enumerate(service.method):
            yield (6, index, 2, number), f"{name}.{method.name}"


def _of_message(message: DescriptorProto, path: Path, outer: str) -> Iterator[tuple[Path, str]]:
    name = f"{outer}.{message.name}"
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, 2, index), f"{name}.{field.name}"
    for index, nested in enumerate(message.nested_type):
        yield from _of_message(nested, (*path, 3, index), name)
    for index, enum in enumerate(message.enum_type):
        yield from _of_enum(enum, (*path, 4, index), name)


def _of_enum(enum: EnumDescriptorProto, path: Path, outer: str) -> Iterator[tuple[Path, str]]:
    name = f"{outer}.{enum.name}"
    yield path, name
    for index, value in enumerate(enum.value):
        yield (*path, 2, index), f"{name}.{value.name}"
