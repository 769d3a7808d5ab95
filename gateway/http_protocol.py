"""HTTP/1.1 below the application: what cannot be refused any later."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with an end to how long a request line with headers may be: it has none itself."""

    header_bytes = 32 * 1024

    _in_body = False
    _unfinished = 0
    _finished = 0
    _refused = False

    def data_received(self, data: bytes) -> None:
        # A header that never ends is held by the parser and shown to nobody: bytes are counted as they come.
        if not self._in_body:
            self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > self.header_bytes:
            self._refuse()

    def on_message_begin(self) -> None:
        self._finished = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._finished += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._finished += len(name) + len(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_body, self._unfinished = True, 0
        if self._finished > self.header_bytes:
            self._refuse()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if not self._refused:
            super().on_message_complete()

    def _refuse(self) -> None:
        self._refused = True
        if not self.transport.is_closing():
            self.transport.write(_HEADERS_TOO_LARGE)
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- uvicorn's own words are of no use
        self.transport.write(_MALFORMED)
        self.transport.close()


def bounded_protocol(header_bytes: int) -> type[BoundedProtocol]:
    """The protocol class for a limit; uvicorn takes a class and makes one object for each connection."""
    return type("BoundedProtocol", (BoundedProtocol,), {"header_bytes": header_bytes})


def _plain(status: str, reason: str, detail: str) -> bytes:
    body = (
        f'{{"type":"urn:numerator:problem:{reason.lower().replace("_", "-")}","status":{status[:3]},'
        f'"title":"{reason.replace("_", " ").capitalize()}","detail":"{detail}","reason":"{reason}"}}'
    )
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
        f"connection: close\r\n\r\n{body}"
    ).encode()


_HEADERS_TOO_LARGE = _plain(
    "431 Request Header Fields Too Large", "HEADERS_TOO_LARGE", "the request line and headers are too long"
)
_MALFORMED = _plain("400 Bad Request", "MALFORMED_HTTP", "this is no HTTP request")
