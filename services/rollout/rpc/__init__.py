"""The gRPC face of rollout: proto to model and back, nothing else. One module for each proto file."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.paging import Kind, decode_token, encode_token, page_size
from services.chassis.rpc.call import current_call

M = TypeVar("M", bound=Message)
R = TypeVar("R")


class Asked(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


class Servicer:
    """
    What the servicers share. All of them work in the platform's scope: a decision on one enterprise looks at the seats of all;
    whose enterprise it is comes from the principal, never from a request.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def read(self, do: Callable[[Transaction], R]) -> R:
        """What `do` finds, in one transaction."""
        with self.database.transaction(PLATFORM) as tx:
            return do(tx)

    def write(self, request: Message, do: Callable[[Transaction], M]) -> M:
        """What `do` makes of a request, once for each request id."""
        with self.database.transaction(PLATFORM) as tx:
            return tx.once(request, lambda: do(tx))


def actor() -> str:
    """Who asks, as the audit trail names them."""
    return current_call().principal.subject


def own_enterprise() -> str:
    """The caller's enterprise; the contract lets only members and clients in where this is asked."""
    return current_call().principal.enterprise or ""


def page(
    request: Asked,
    kinds: Sequence[Kind],
    find: Callable[[int, tuple[str | int, ...] | None], Sequence[R]],
    key: Callable[[R], tuple[str | int, ...]],
) -> tuple[Sequence[R], str]:
    """
    A page and the token of the next.

    Args:
        request: says how many, and after which.
        kinds: of the values in a key.
        find: gives at most so many, after the one with this key (None: from the beginning).
        key: the place of one of them.
    """
    size, after = page_size(request.page_size), decode_token(request.page_token, kinds, query=request)  # type: ignore[arg-type]
    found = find(size + 1, after)
    more = len(found) > size
    return found[:size], encode_token(key(found[size - 1]), query=request) if more else ""  # type: ignore[arg-type]
