"""Server streams of raw pieces: one body, which no browser opens as a page, passed on while it comes."""

import mimetypes
import re
from collections.abc import AsyncIterator, Awaitable, Callable

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.wrappers_pb2 import Int64Value
from starlette.responses import StreamingResponse

# What somebody else has uploaded: it is saved, not shown, whatever a browser takes it for.
_HEADERS = {
    "content-security-policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
Read = Callable[[], Awaitable[HttpBody | None]]


def download(name: str, first: HttpBody, read: Read, cancel: Callable[[], object]) -> StreamingResponse:
    """
    The answer that a stream of pieces is.

    A stream that fails or ends early breaks the connection off: with its status sent, an answer has no other way to say that it
    is not whole. That it ends early shows only if its first piece told the length (an Int64Value in `extensions`).

    Args:
        name: of the resource; its last part is the file's name, with the ending of its type.
        first: the stream's first piece, with the content type.
        read: gives the next piece, None at the end.
        cancel: ends the stream.
    """
    ending = mimetypes.guess_extension(first.content_type.partition(";")[0]) or ""
    file = _UNSAFE.sub("_", name.rpartition("/")[2])
    headers = {**_HEADERS, "content-disposition": f'attachment; filename="{file}{ending}"'}
    length = Int64Value()
    if first.extensions and first.extensions[0].Unpack(length):
        headers["content-length"] = str(length.value)
    return StreamingResponse(
        _pieces(first, read, cancel),
        media_type=first.content_type or "application/octet-stream",
        headers=headers,
    )


async def _pieces(first: HttpBody, read: Read, cancel: Callable[[], object]) -> AsyncIterator[bytes]:
    piece: HttpBody | None = first
    try:
        while piece is not None:
            yield piece.data
            piece = await read()
    finally:
        cancel()
