"""The gRPC face of accounts: proto to model and back, nothing else. One module for each proto file."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from services.accounts import store
from services.chassis.paging import decode_token, encode_token

M = TypeVar("M", bound=Message)


class Listed(Protocol):
    """What is listed, oldest first."""

    @property
    def name(self) -> str:
        """Its resource name."""

    @property
    def create_time(self) -> datetime:
        """Since when there is one."""


L = TypeVar("L", bound=Listed)


def after(request: Message) -> store.After:
    """Where the page begins that a request asks for by its `page_token`."""
    match decode_token(request.page_token, (datetime, str), query=request):  # type: ignore[attr-defined]
        case (str(time), str(name)):
            return datetime.fromisoformat(time), name
        case _:
            return store.BEGINNING


def page(found: Sequence[L], size: int, request: Message) -> tuple[Sequence[L], str]:
    """The page, of which one item more was asked for, and the token of the next; empty when there is none."""
    items = found[:size]
    if len(found) == len(items):
        return items, ""
    return items, encode_token((items[-1].create_time.isoformat(), items[-1].name), query=request)


def without(request: M, field: str) -> M:
    """The request as it may be remembered: not even a hash of a password is kept longer than needed."""
    rest = type(request)()
    rest.CopyFrom(request)
    rest.ClearField(field)
    return rest
