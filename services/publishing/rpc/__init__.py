"""The gRPC face of publishing: proto to model and back, nothing else. One module for each proto file."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.database import Database, Transaction
from services.chassis.names import NamePattern, enterprise_of
from services.chassis.paging import decode_token, encode_token, page_size
from services.chassis.rpc.call import current_call
from services.publishing.model.callers import Caller

M = TypeVar("M", bound=Message)


class Asked(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


class Made(Protocol):
    """What is listed, newest first."""

    @property
    def name(self) -> str: ...

    @property
    def create_time(self) -> datetime: ...


Listed = TypeVar("Listed", bound=Made)


class Servicer:
    """What the servicers share."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _write(self, request: Message, make: Callable[[Transaction], M]) -> M:
        """What `make` makes of a request, once for each request id."""
        with self._database.transaction(current_call().scope) as tx:
            return tx.once(request, lambda: make(tx))


def present_caller() -> Caller:
    """Who makes the present call."""
    call = current_call()
    return Caller(call.principal.subject, call.reach, by_platform=call.principal.kind == "OPERATOR")


def enterprise_in(pattern: NamePattern, name: str, field: str = "name") -> str:
    """The enterprise of a resource, as `enterprises/x`. Raises INVALID_ARGUMENT for a name of another form."""
    pattern.parse(name, field)
    return str(enterprise_of(name))


def page(
    request: Asked, read: Callable[[tuple[datetime, str] | None, int], Sequence[Listed]]
) -> tuple[Sequence[Listed], str]:
    """One page of a list that is sorted by create time and name, and the token of the next."""
    size = page_size(request.page_size)
    after = decode_token(request.page_token, (datetime, str), query=request)  # type: ignore[arg-type]
    found = read((datetime.fromisoformat(str(after[0])), str(after[1])) if after else None, size + 1)
    if len(found) <= size:
        return found, ""
    last = found[size - 1]
    return found[:size], encode_token((last.create_time.isoformat(), last.name), query=request)  # type: ignore[arg-type]


def timestamp(time: datetime | None) -> Timestamp | None:
    """The protobuf form of a moment; None for none."""
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
