"""What can be made to go wrong with a call, and the two ways to end a connection badly."""

import asyncio
import random
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Kind(StrEnum):
    LATENCY = "latency"
    """The call waits `milliseconds`, then goes on (to other faults, too)."""
    ERROR_500_BEFORE = "error_500_before"
    TOO_MANY_REQUESTS = "too_many_requests"
    """429; `retry_after` seconds until the limit resets."""
    REFUSED = "refused"
    """422, as a network refuses what it will never take."""
    BLACK_HOLE = "black_hole"
    """Nothing happens, and the connection stays open until the client gives up."""
    RESET_BEFORE = "reset_before"
    """Nothing happens, and the connection is reset (RST)."""
    LOST_REPLY_AFTER_COMMIT = "lost_reply_after_commit"
    """All is done, and the connection is closed (FIN) without one byte of reply."""
    ERROR_500_AFTER_COMMIT = "error_500_after_commit"


BEFORE = frozenset(
    {Kind.ERROR_500_BEFORE, Kind.TOO_MANY_REQUESTS, Kind.REFUSED, Kind.BLACK_HOLE, Kind.RESET_BEFORE}
)
"""Instead of the operation."""
AFTER = frozenset({Kind.LOST_REPLY_AFTER_COMMIT, Kind.ERROR_500_AFTER_COMMIT})
"""After an operation that succeeded, instead of its reply."""


class Fault(BaseModel):
    """A fault as it is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation: str
    """The name of an API operation, such as `post_status`, or `*`."""
    kind: Kind
    probability: float = Field(default=1, gt=0, le=1)
    count: int | None = Field(default=None, ge=1)
    """How many times at most; None is without end."""
    accounts: list[str] | None = None
    """Only for calls of these usernames."""
    milliseconds: float = Field(default=0, ge=0)
    retry_after: float = Field(default=60, ge=0)
    error_code: int | str | None = None
    """Of `refused`: answers with Weibo's form of an error and this number, as it is given: a number or a text."""
    seed: int | None = None
    """Of this fault's own dice, so that other traffic does not change how they fall."""


@dataclass(slots=True)
class ArmedFault:
    fault: Fault
    dice: random.Random
    applied: int = 0


@dataclass(slots=True)
class Faults:
    """The faults that are armed, in the order in which they were asked for."""

    seed: int
    armed: list[ArmedFault] = field(default_factory=list)

    def arm(self, fault: Fault) -> ArmedFault:
        dice = random.Random(self.seed if fault.seed is None else fault.seed)  # noqa: S311  must be repeatable
        self.armed.append(ArmedFault(fault, dice))
        return self.armed[-1]

    def draw(self, operation: str, username: str | None, kinds: Collection[Kind]) -> Fault | None:
        """The first fault of these kinds that meets the call and whose dice fall so; it counts as applied."""
        for armed in self.armed:
            fault = armed.fault
            if (
                fault.kind in kinds
                and fault.operation in ("*", operation)
                and (fault.accounts is None or username in fault.accounts)
                and (fault.count is None or armed.applied < fault.count)
                and armed.dice.random() < fault.probability
            ):
                armed.applied += 1
                return fault
        return None


class FaultyProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, which also lets a request reach its own connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


def close_connection(request: Request) -> None:
    """End the connection without a reply, in good order (FIN)."""
    _transport(request).close()


def reset_connection(request: Request) -> None:
    """End the connection without a reply, as when a machine goes down (RST)."""
    transport = _transport(request)
    linger_not = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
    transport.abort()


async def client_gone(request: Request) -> None:
    """Wait until the connection is closed, by whomever."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _transport(request: Request) -> asyncio.Transport:
    return cast("asyncio.Transport", request.scope["state"]["transport"])
