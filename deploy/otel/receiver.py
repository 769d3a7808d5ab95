"""
A receiver of OTLP over HTTP: takes what processes export, and shows traces and logs again.

It stands in for a collector and its stores where there are none, and serves our tests. It forgets, knows no rights
and scales to one machine: `collector.yaml` is for those who have more.
"""

import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import uvicorn
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from deploy.otel.exports import Span, read_logs, read_spans, tree
from deploy.otel.store import Store

PROTOBUF = "application/x-protobuf"
LARGEST = 16 * 2**20
"""How many bytes an export may have, packed and unpacked."""
_MOST_LISTED = 1_000


@dataclass(frozen=True, slots=True)
class Receiver:
    """
    A receiver that runs.

    Attributes:
        endpoint: its address, as http://127.0.0.1:4318.
        store: what it has received.
    """

    endpoint: str
    store: Store

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process export here, and soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_BLRP_SCHEDULE_DELAY": "200",
        }


def application(store: Store) -> Starlette:
    """The receiver as an ASGI application; what it takes goes to `store`."""

    def take(keep: Callable[[bytes], None]) -> Callable[..., object]:
        async def endpoint(request: Request) -> Response:
            body = await _body(request)
            try:
                keep(body)
            except DecodeError as error:
                raise HTTPException(400, "the body is no export of this kind") from error
            # An empty message of each of the three response types: everything was taken.
            return Response(b"", media_type=PROTOBUF)

        return endpoint

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def traces(request: Request) -> Response:
        found = store.traces(request.query_params.get("service", ""), _limit(request))
        return JSONResponse({"traces": [_summary(spans) for spans in found], "dropped_spans": store.dropped})

    async def trace(request: Request) -> Response:
        spans = store.trace(request.path_params["trace_id"].lower())
        if not spans:
            raise HTTPException(404, "this trace is not kept, or not any more")
        if "text/plain" in request.headers.get("accept", ""):
            return PlainTextResponse(tree(spans) + "\n", headers={"x-content-type-options": "nosniff"})
        return JSONResponse({"spans": [asdict(span) for span in spans]})

    async def logs(request: Request) -> Response:
        lines = store.logs(request.query_params.get("trace_id", "").lower(), _limit(request))
        return JSONResponse({"logs": [asdict(line) for line in lines]})

    return Starlette(
        routes=[
            Route("/v1/traces", take(lambda body: store.add_spans(read_spans(body))), methods=["POST"]),
            Route("/v1/logs", take(lambda body: store.add_logs(read_logs(body))), methods=["POST"]),
            # Prometheus has the metrics; they are taken so that processes need no other settings here.
            Route("/v1/metrics", take(lambda _: None), methods=["POST"]),
            Route("/traces", traces),
            Route("/traces/{trace_id}", trace),
            Route("/logs", logs),
            Route("/healthz", health),
        ],
        exception_handlers={HTTPException: _problem},
    )


@contextmanager
def receiving(*, traces: int = 1_000_000, logs: int = 1_000_000) -> Iterator[Receiver]:
    """A receiver on a free port of this machine, for the time of a `with` block; for tests."""
    store = Store(traces, logs)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # from here on clients may connect; they wait until the server runs
        server = uvicorn.Server(
            uvicorn.Config(application(store), log_config=None, ws="none", timeout_graceful_shutdown=5)
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield Receiver(f"http://127.0.0.1:{listener.getsockname()[1]}", store)
        finally:
            server.should_exit = True
            thread.join()


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip() != PROTOBUF:
        raise HTTPException(415, f"only {PROTOBUF} is taken")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise HTTPException(413, f"an export may have {LARGEST} bytes")
    match request.headers.get("content-encoding", "identity"):
        case "identity":
            return bytes(body)
        case "gzip":
            return _unpacked(bytes(body))
        case _:
            raise HTTPException(415, "only gzip is taken")


def _unpacked(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)  # gzip
    try:
        plain = unpacker.decompress(body, LARGEST)
    except zlib.error as error:
        raise HTTPException(400, "the body is no gzip") from error
    if unpacker.unconsumed_tail:
        raise HTTPException(413, f"an export may have {LARGEST} bytes")
    if not unpacker.eof:
        raise HTTPException(400, "the gzip is not whole")
    return plain


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "100")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _MOST_LISTED:
        raise HTTPException(400, f"limit must be a number from 1 to {_MOST_LISTED}")
    return int(text)


def _summary(spans: list[Span]) -> dict[str, object]:
    first = spans[0]
    return {
        "trace": first.trace,
        "name": first.name,
        "service": first.service,
        "start": first.start,
        "duration": max(span.start + span.duration for span in spans) - first.start,
        "spans": len(spans),
        "failed": sum(span.failed for span in spans),
        "services": sorted({span.service for span in spans}),
    }


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"status": error.status_code, "detail": error.detail}, error.status_code)
