"""The way of a request through the gateway to a service and back, over real HTTP and real gRPC."""

import asyncio
import json
import socket
from datetime import timedelta

import httpx
import pytest

from gateway.tests.fakes import pb
from services.chassis.errors import Kind, ServiceError
from services.chassis.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOXES = "/v1/enterprises/x/boxes"


async def problem(answer: httpx.Response, status: int, reason: str) -> dict:
    """The problem document of an answer, after what is true of every one."""
    document = answer.json()
    assert (answer.status_code, document["reason"]) == (status, reason), document
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["status"] == status
    assert document["type"] == "urn:numerator:problem:" + reason.lower().replace("_", "-")
    assert document["instance"] == answer.request.url.path
    return document


# --- requests and replies


async def test_unary__path_query_and_reply(http, services):
    """Path and query reach the service; the reply comes back in JSON."""
    answer = await http.get(
        BOXES, params={"pageSize": 3, "filter.cityCode": "BJ", "sizes": ["SMALL", "LARGE"]}
    )

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["boxes"][0]["name"] == "a"
    [request] = services.boxes.requests
    assert request == pb.ListBoxesRequest(
        parent="enterprises/x",
        page_size=3,
        filter=pb.ListBoxesRequest.Filter(city_code="BJ"),
        sizes=[pb.SMALL, pb.LARGE],
    )


async def test_unary__body_principal_and_key(http, services, member):
    """The body's field, the caller and the idempotency key reach the service."""
    answer = await http.post(
        BOXES,
        params={"boxId": "b"},
        json={"displayName": "Tools"},
        headers={**member, "idempotency-key": "k-1"},
    )

    assert answer.json()["displayName"] == "Tools"
    [request] = services.boxes.requests
    assert (request.box_id, request.request_id) == ("b", "k-1")
    [principal] = services.boxes.principals
    assert (principal.kind, principal.subject, principal.enterprise, principal.roles) == (
        "MEMBER",
        "enterprises/x/members/m",
        "enterprises/x",
        {"OWNER"},
    )


async def test_unary__additional_binding_and_response_body(http):
    """A second path leads to the same method; `response_body` shows one field."""
    name = (await http.get("/v1/boxes/b")).json()["name"]
    contents = (await http.post(f"{BOXES}/b:open")).json()

    assert name == "b"
    assert contents == [{"what": "saw", "count": 2}]


async def test_page__as_it_is_with_a_policy(http):
    """HTML is sent as it is, under a policy that lets no script run."""
    answer = await http.get("/show/b")

    assert answer.text == "<h1>Kiste</h1>"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_request_id__is_kept_or_made(http):
    """Every answer names its request; a client's sane id is taken over."""
    assert (await http.get("/v1/boxes/b", headers={"x-request-id": "abc"})).headers["x-request-id"] == "abc"
    made = (await http.get("/nowhere", headers={"x-request-id": "a b"})).headers["x-request-id"]
    assert len(made) == 26


# --- refusals


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/nowhere", 404, "NO_SUCH_ROUTE"),
        ("GET", f"{BOXES}/b/c/d", 404, "NO_SUCH_ROUTE"),
        ("GET", "/numerator.gatewaytest.v1.BoxService/Internal", 404, "NO_SUCH_ROUTE"),
        ("DELETE", BOXES, 405, "METHOD_NOT_ALLOWED"),
        ("GET", f"{BOXES}/b:open", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/healthz", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/oauth2/token", 405, "METHOD_NOT_ALLOWED"),
        ("BREW", "/healthz", 400, "MALFORMED_HTTP"),
        ("GET", f"{BOXES}/a%0Ab/c", 404, "NO_SUCH_ROUTE"),
        ("GET", "/show/%ff", 400, "MALFORMED_PATH"),
        ("GET", f"{BOXES}?pageToken=%ff", 400, "MALFORMED_QUERY"),
        ("GET", f"{BOXES}?" + "&".join("labels=a" for _ in range(201)), 400, "MALFORMED_QUERY"),
        ("GET", f"{BOXES}?colour=red", 400, "INVALID_ARGUMENT"),
        ("POST", BOXES, 401, "CREDENTIALS_MISSING"),
        ("GET", "/show/none", 404, "NOT_FOUND"),
    ],
)
async def test_refusal__is_a_problem(http, method, path, status, reason):
    """What cannot be served is refused with a problem that says why, never with a 500."""
    answer = await http.request(method, path)

    if reason != "MALFORMED_HTTP":
        await problem(answer, status, reason)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    if status == 405:
        assert "OPTIONS" in answer.headers["allow"]
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_head_and_options(http):
    """HEAD is GET without its body; OPTIONS tells the methods."""
    head = await http.head("/v1/boxes/b")
    options = await http.options(BOXES)

    assert (head.status_code, head.content) == (200, b"")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert (await http.options("/healthz")).headers["allow"] == "GET, HEAD, OPTIONS"
    assert (await http.options("/nowhere")).status_code == 404
    assert (await http.head(f"{BOXES}:watch")).status_code == 405


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ServiceError(Kind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "no"), 400),
        (ServiceError(Kind.PERMISSION_DENIED, "ROLE_MISSING", "no"), 403),
        (ServiceError(Kind.ALREADY_EXISTS, "BOX_EXISTS", "no"), 409),
        (ServiceError(Kind.FAILED_PRECONDITION, "BOX_LOCKED", "no"), 409),
        (ServiceError(Kind.FAILED_PRECONDITION, "IDEMPOTENCY_KEY_REUSED", "no"), 422),
        (ServiceError(Kind.ABORTED, "REQUEST_RUNNING", "no"), 409),
        (ServiceError(Kind.ABORTED, "ETAG_MISMATCH", "no"), 412),
        (ServiceError(Kind.RESOURCE_EXHAUSTED, "QUOTA", "no", retry_after=timedelta(seconds=7)), 429),
        (
            ServiceError(
                Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "no", retry_after=timedelta(milliseconds=1)
            ),
            503,
        ),
    ],
)
async def test_service_error__keeps_its_reason(http, services, error, status):
    """A service's error keeps reason and words, and gets the status of its kind or of its reason."""
    services.boxes.error = error

    answer = await http.post(f"{BOXES}/b:open")

    document = await problem(answer, status, error.reason)
    assert document["detail"] == "no"
    if error.retry_after:
        assert answer.headers["retry-after"] == ("7" if status == 429 else "1")
        assert document["retryAfter"] == int(answer.headers["retry-after"])


async def test_service_error__violations_by_json_name(http, services, member):
    """What the service's validation finds is told by the names that the client uses."""
    answer = await http.post(BOXES, json={"displayName": "x" * 50, "weight": "-1"}, headers=member)

    document = await problem(answer, 400, "INVALID_ARGUMENT")
    assert {each["field"] for each in document["violations"]} == {"box.displayName", "box.weight"}


async def test_service_crash__tells_nothing(http, caplog):
    """An unforeseen failure in a service is a 500 without detail."""
    answer = await http.post(f"{BOXES}/b:open", json={"key": "crash"})

    document = await problem(answer, 500, "INTERNAL")
    assert "secret" not in json.dumps(document)


async def test_deadline__is_the_methods(http):
    """A method's own deadline ends the call."""
    answer = await http.post(f"{BOXES}/b:open", json={"key": "wait"})

    await problem(answer, 504, "DEADLINE_EXCEEDED")


async def test_client_gone__cancels_the_call(gateway, services):
    """When the client goes away, the service is told."""
    with pytest.raises(httpx.ReadTimeout):
        await gateway.http.post(f"{BOXES}/b:open", json={"key": "wait"}, timeout=0.2)

    assert await asyncio.to_thread(services.boxes.cancelled.wait, 0.6)


async def test_media_type__only_json(http):
    """Other content types and encodings are refused before anything is parsed."""
    form = await http.post(f"{BOXES}/b:open", data={"key": "k"})
    packed = await http.post(f"{BOXES}/b:open", json={}, headers={"content-encoding": "gzip"})

    await problem(form, 415, "UNSUPPORTED_MEDIA_TYPE")
    await problem(packed, 415, "UNSUPPORTED_ENCODING")


async def test_json__malformed_is_a_400(http):
    """Malformed JSON says line and column."""
    answer = await http.post(
        f"{BOXES}/b:open", content=b'{"key": }', headers={"content-type": "application/json"}
    )

    document = await problem(answer, 400, "MALFORMED_JSON")
    assert document["metadata"] == {"line": "1", "column": "9"}


# --- idempotency keys


async def test_idempotency_key__passes_or_is_derived(http, services):
    """A key that fits is passed on, quotes taken off; another becomes a UUID, always the same."""
    for key in ("k", '"k"', "x" * 100, "x" * 100):
        await http.post(f"{BOXES}/b:open", headers={"idempotency-key": key})

    ids = [request.request_id for request in services.boxes.requests]
    assert ids[:2] == ["k", "k"]
    assert ids[2] == ids[3]
    assert len(ids[2]) == 36


@pytest.mark.parametrize("key", ["", "a b", "ü".encode(), "x" * 256])
async def test_idempotency_key__refused(http, key):
    """What is no key is refused."""
    answer = await http.post(f"{BOXES}/b:open", headers={"idempotency-key": key})

    await problem(answer, 400, "INVALID_ARGUMENT")


async def test_idempotency_key__and_request_id(http):
    """Both may be given if they are the same."""
    headers = {"idempotency-key": "k"}

    assert (await http.post(f"{BOXES}/b:open", json={"requestId": "k"}, headers=headers)).status_code == 200
    await problem(
        await http.post(f"{BOXES}/b:open", json={"requestId": "j"}, headers=headers), 400, "INVALID_ARGUMENT"
    )


# --- body limits


async def _raw(url: str, head: str, *pieces: bytes) -> bytes:
    """What the gateway answers to a request that is sent piece by piece, and never ended."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.replace("\n", "\r\n").encode())
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(65536), 5)
    finally:
        writer.close()


async def test_body__too_large_is_refused_unread(gateway):
    """A declared length over the limit is refused before a byte of the body has come."""
    answer = await _raw(
        gateway.url,
        f"POST {BOXES}/b:open HTTP/1.1\nhost: x\ncontent-type: application/json\ncontent-length: 2001\n\n",
    )

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"BODY_TOO_LARGE" in answer


async def test_body__chunked_is_cut_at_the_first_byte_over(gateway, services):
    """A chunked body is refused at the first byte over, while the client would go on for ever."""
    chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    head = f"POST {BOXES}/b:open HTTP/1.1\nhost: x\ncontent-type: application/json\ntransfer-encoding: chunked\n\n"

    answer = await _raw(gateway.url, head, chunk, chunk, b"1\r\n \r\n")

    assert answer.startswith(b"HTTP/1.1 413")
    assert services.boxes.requests == []


async def test_body__exactly_the_limit_passes(http):
    """The limit itself is allowed."""
    content = b'{"key": "' + b"k" * 900 + b'"}'
    content += b" " * (2000 - len(content))

    answer = await http.post(f"{BOXES}/b:open", content=content, headers={"content-type": "application/json"})

    assert answer.status_code == 200


async def test_headers__too_large(make_gateway):
    """Headers have an end, also when they never end."""
    async with make_gateway(header_bytes=2000) as gateway:
        whole = await _raw(gateway.url, f"GET /healthz HTTP/1.1\nhost: x\na: {'x' * 3000}\n\n")
        endless = await _raw(gateway.url, "GET /healthz HTTP/1.1\nhost: x\na: ", b"x" * 1000, b"x" * 1500)
        fine = await gateway.http.get("/healthz")

    assert whole.startswith(b"HTTP/1.1 431")
    assert endless.startswith(b"HTTP/1.1 431")
    assert fine.status_code == 200


async def test_http__malformed(gateway):
    """What is no HTTP is answered with a 400 and closed."""
    assert (await _raw(gateway.url, "what?\n\n")).startswith(b"HTTP/1.1 400")


# --- uploads


async def test_upload__streams_in_pieces(http, services):
    """An upload reaches the service in pieces, with what path and query say, and its content type."""

    async def body():
        for _ in range(290):
            yield b"x" * 1000

    answer = await http.post(
        f"{BOXES}:fill",
        params={"strictness": 2},
        content=body(),
        headers={"content-type": "application/x-ndjson"},
    )

    assert answer.json() == {
        "byteCount": "290000",
        "pieceCount": "2",
        "contentType": "application/x-ndjson",
        "parent": "enterprises/x",
        "strictness": 2,
    }


async def test_upload__empty(http):
    """An empty upload is one empty piece."""
    answer = await http.post(f"{BOXES}:fill")

    assert answer.json()["byteCount"] == "0"
    assert answer.json()["parent"] == "enterprises/x"


async def test_upload__too_large(http):
    """An upload over its limit ends in a 413."""
    answer = await http.post(f"{BOXES}:fill", content=b"x" * 300_001)

    await problem(answer, 413, "BODY_TOO_LARGE")


async def test_upload__service_refuses_early(http):
    """A service's refusal in the middle of an upload is the answer."""

    async def body():
        yield b"STOP"
        for _ in range(290):
            yield b"x" * 1000

    await problem(await http.post(f"{BOXES}:fill", content=body()), 400, "INVALID_ARGUMENT")


# --- downloads


async def test_download__is_saved_and_not_shown(http):
    """The pieces make one body of the length told ahead, under headers with which no browser opens it."""
    answer = await http.get(f"{BOXES}/b1:unpack")

    assert answer.content == b"<html>bye"
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == 'attachment; filename="b1.png"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-length"] == "9"


async def test_download__fails_before_it_begins(http):
    """A refusal is a problem; so is HEAD, since a download may be written down as one."""
    await problem(await http.get(f"{BOXES}/b1:unpack", params={"trouble": "none"}), 404, "NOT_FOUND")
    assert (await http.head(f"{BOXES}/b1:unpack")).status_code == 405


@pytest.mark.parametrize("trouble", ["fail", "short"])
async def test_download__broken_off_is_not_taken_for_whole(http, trouble):
    """A stream that fails or ends early in the middle breaks the connection off."""
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get(f"{BOXES}/b1:unpack", params={"trouble": trouble})


# --- streams


async def _events(lines, count):
    """The first events of a stream, as dicts."""
    events, event = [], {}
    async for line in lines:
        if line:
            name, _, value = line.partition(":")
            event[name] = value.strip()
        elif "data" in event:
            events.append(event)
            event = {}
            if len(events) == count:
                break
        else:
            event = {}
    return events


async def test_events__ids_and_resume(http, services):
    """Events carry an id; a client that comes back with the last one goes on after it."""
    async with http.stream("GET", f"{BOXES}:watch") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        first = await _events(stream.aiter_lines(), 3)
    async with http.stream("GET", f"{BOXES}:watch", headers={"last-event-id": first[-1]["id"]}) as stream:
        second = await _events(stream.aiter_lines(), 1)

    assert [event["id"] for event in first] == ["1", "2", "3"]
    assert json.loads(first[0]["data"])["box"]["name"] == "b1"
    assert second[0]["id"] == "4"
    assert services.boxes.requests[-1].after_sequence == 3


async def test_events__leaving_cancels(http, services):
    """A client that leaves a stream ends the call behind it."""
    async with http.stream("GET", f"{BOXES}:watch") as stream:
        await _events(stream.aiter_lines(), 1)

    assert await asyncio.to_thread(services.boxes.cancelled.wait, 1.5)


async def test_events__end_at_their_age(http):
    """A stream ends cleanly at the method's deadline."""
    async with http.stream("GET", f"{BOXES}:watch") as stream:
        events = await _events(stream.aiter_lines(), 99)

    assert len(events) == 3
    assert all("event" not in event for event in events)


async def test_events__failure_before_the_first_is_a_problem(http, services):
    """What fails at once is a problem document, not a stream."""
    services.boxes.error = ServiceError(Kind.NOT_FOUND, "NOT_FOUND", "no")

    await problem(await http.get(f"{BOXES}:watch"), 404, "NOT_FOUND")


async def test_events__failure_later_is_an_event(http, services):
    """What fails later is an event of its own, with the problem in it."""
    async with http.stream("GET", f"{BOXES}:watch") as stream:
        lines = stream.aiter_lines()
        await _events(lines, 3)
        services.boxes.watch_until.set()
        [error] = await _events(lines, 1)

    assert error["event"] == "error"
    assert json.loads(error["data"])["reason"] == "TORN_DOWN"


async def test_events__heartbeat_and_stop(make_gateway):
    """A silent stream says that it is alive, and ends when the gateway stops."""
    async with (
        make_gateway(heartbeat_seconds=0.1) as gateway,
        gateway.http.stream("GET", f"{BOXES}:watch") as stream,
    ):
        seen = []
        async for line in stream.aiter_lines():
            seen.append(line)
            if line == ": alive":
                gateway.gateway.stopping.set()

    assert ": alive" in seen


async def test_events__bad_last_event_id(http):
    """An id that this stream never gave is refused."""
    await problem(await http.get(f"{BOXES}:watch", headers={"last-event-id": "x"}), 400, "INVALID_ARGUMENT")


# --- limits


async def test_rate_limit__by_credential(make_gateway):
    """Who asks too often is told when to come back."""
    async with make_gateway(credential_rate=1) as gateway:
        answers = [await gateway.http.get("/v1/boxes/b") for _ in range(4)]

    refused = answers[-1]
    await problem(refused, 429, "RATE_LIMITED")
    assert refused.headers["retry-after"] == "1"
    assert answers[0].status_code == 200


async def test_concurrency__per_tenant(make_gateway, services):
    """One tenant's slow requests do not take all places."""
    async with make_gateway(tenant_concurrency=2) as gateway:
        slow = [
            asyncio.create_task(gateway.http.post(f"{BOXES}/b:open", json={"key": "wait"})) for _ in range(2)
        ]
        await asyncio.to_thread(eventually, lambda: len(services.boxes.requests) == 2)
        refused = await gateway.http.get("/v1/boxes/b")
        services.boxes.slow.set()
        await asyncio.gather(*slow)
        later = await gateway.http.get("/v1/boxes/b")

    await problem(refused, 429, "TOO_MANY_AT_ONCE")
    assert later.status_code == 200


# --- services that are away


async def test_service_away__is_a_503(make_gateway):
    """A service that stays away is a 503, after the method's own deadline."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = f"127.0.0.1:{nobody.getsockname()[1]}"
        async with make_gateway() as gateway:
            settings = gateway.gateway._settings
            services = {**settings.services, "gatewaytest": away}
            from gateway.tests.conftest import serving

            async with serving(settings.model_copy(update={"services": services})) as other:
                answer = await other.http.post(f"{BOXES}/b:open")
                ready = await other.http.get("/readyz")

    document = await problem(answer, 503, "UNAVAILABLE")
    assert away not in json.dumps(document)
    assert (ready.status_code, ready.json()["services"]["gatewaytest"]) == (503, "UNREACHABLE")
