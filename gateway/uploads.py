"""
Client streams: the request's body, passed on in pieces while it comes.

They go over a synchronous channel, whose threads ask the event loop for the next piece. grpc.aio is no use here: when a
service refuses while a piece is being written, which is when most refusals of large uploads come, it reports INTERNAL
and loses what the service said.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Self, cast

from google.api import httpbody_pb2
from google.protobuf.message import Message

from gateway.errors import Problem
from gateway.limits import Body, ClientGoneError

_PIECE_BYTES = 256 * 1024
Start = Callable[[Iterator[Message]], Any]


class Upload:
    """
    The messages of an upload: the body in pieces, the rest of the request in the first; one, maybe empty, at least.

    A body that is too large or breaks off cancels the call: an end without a word would pass for the whole.
    """

    def __init__(self, body: Body, request: Message, field: str, media: str) -> None:
        """`field` is where a message has its piece: a field's name, or "" and "*" when it is the piece itself."""
        self._body = body
        self._request = request
        self._field = field
        self._media = media
        self._loop = asyncio.get_running_loop()
        self._began = self._ended = False
        self._failure: Problem | ClientGoneError | None = None
        self._decided = asyncio.Event()
        self._cancelled = asyncio.Event()

    async def send(self, start: Start) -> Message:
        """
        The call's reply; `start` begins the call with an iterator and gives gRPC's future.

        Raises grpc.RpcError when the call fails, Problem when the body is too large, ClientGoneError when it breaks off.
        """
        call = start(self)
        call.add_done_callback(lambda _call: self._loop.call_soon_threadsafe(self._decided.set))
        try:
            await self._decided.wait()
        finally:
            call.cancel()
            self._cancelled.set()
        if self._failure is not None:
            raise self._failure
        if (error := call.exception()) is not None:
            raise error
        return cast("Message", call.result())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        """Called by gRPC's thread."""
        message = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        if message is None:
            raise StopIteration
        return message

    async def _next(self) -> Message | None:
        piece = b""
        try:
            while len(piece) < _PIECE_BYTES and not self._ended:
                more = await self._body.piece()
                self._ended = more is None
                piece += more or b""
        except (Problem, ClientGoneError) as error:
            self._failure = error
            self._decided.set()
            # Not an end of the requests before the call is cancelled: the service would take it for the whole body.
            await self._cancelled.wait()
            return None
        if self._began and not piece:
            return None
        part = httpbody_pb2.HttpBody(content_type=self._media, data=piece)
        message = type(self._request)() if self._began else self._request
        self._began = True
        if self._field in ("", "*"):
            return cast("Message", part)
        getattr(message, self._field).CopyFrom(part)
        return message
