"""Each fault does what it says, to the calls it is meant for."""

import socket
import time

import httpx
import pytest


def outcome(author, **fields):
    """The status of a post's reply, or how there was none."""
    try:
        return author.post("hello", **fields).status_code
    except httpx.TransportError as error:
        return type(error)


@pytest.mark.parametrize(
    ("kind", "expected", "committed"),
    [
        ("lost_reply_after_commit", httpx.RemoteProtocolError, 1),
        ("error_500_after_commit", 500, 1),
        ("error_500_before", 500, 0),
        ("too_many_requests", 429, 0),
        ("refused", 422, 0),
        ("reset_before", httpx.ReadError, 0),
        ("latency", 200, 1),
    ],
)
def test_fault__once(server, user, kind, expected, committed):
    """The client sees the fault, the log tells the truth, and the attempt is noted; the next call is well."""
    author = user()
    server.control("faults", operation="post_status", kind=kind, count=1)
    assert outcome(author) == expected
    assert len(server.log()) == committed
    assert len(author.timeline()) == committed
    attempt = server.attempts("post_status")[-1]
    assert attempt["fault"] == kind
    assert attempt["http_status"] == (expected if isinstance(expected, int) else None)
    assert outcome(author) == 200
    assert len(server.log()) == committed + 1


def test_lost_reply__not_one_byte_comes(server):
    """The connection is closed in order, and nothing was written to it."""
    token = server.token("tianshan")
    server.control("faults", operation="post_status", kind="lost_reply_after_commit")
    body = b'{"status": "hello"}'
    head = (
        f"POST /api/v1/statuses HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(1) == b""
    assert len(server.log()) == 1


def test_reset__is_a_reset(server):
    """The peer gets RST, not an orderly end."""
    server.control("faults", operation="*", kind="reset_before")
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"GET /api/v2/instance HTTP/1.1\r\nHost: sandbox\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_lost_reply__then_the_key_finds_the_post(server, user):
    """The way out in a network that honours the key: the same again answers with the post that was made."""
    author = user()
    server.control("faults", operation="post_status", kind="lost_reply_after_commit", count=1)
    assert outcome(author, key="key-1") is httpx.RemoteProtocolError
    assert author.post("hello", "key-1").json()["id"] == server.log()[0]["status_id"]
    assert len(server.log()) == 1


def test_black_hole__keeps_the_connection_open_without_an_answer(server, user):
    """Only the client's patience ends it; nothing was posted, and others are served meanwhile."""
    author, other = user(), user("tianshan-jobs")
    server.control("faults", operation="post_status", kind="black_hole", accounts=["tianshan"])
    author.http.timeout = 0.5
    assert outcome(author) is httpx.ReadTimeout
    assert other.post("hello").status_code == 200
    assert [entry["account"] for entry in server.log()] == ["tianshan-jobs"]


def test_black_hole__does_not_hold_up_the_end(own_server, user):
    """A sandbox that is told to stop does, with a call in the black hole."""
    server = own_server()
    token = server.token("tianshan")
    server.control("faults", operation="post_status", kind="black_hole")
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(
            f"POST /api/v1/statuses HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        deadline = time.monotonic() + 5
        while not server.attempts("post_status") and time.monotonic() < deadline:
            pass
        assert server.attempts("post_status")[-1]["ended"] is None
        server.stop()
    assert server.log_file() == []


def test_too_many_requests__tells_when_to_come_back(server, user):
    """ISO 8601 with microseconds from Mastodon, epoch seconds from others."""
    author = user()
    server.control("faults", operation="*", kind="too_many_requests", retry_after=90)
    reply = author.post("hello")
    assert reply.headers["x-ratelimit-remaining"] == "0"
    assert reply.headers["x-ratelimit-reset"].endswith("Z")
    server.control("mode", mode="ignores")
    assert int(author.post("hello").headers["x-ratelimit-reset"]) == pytest.approx(time.time() + 90, abs=5)


def test_latency__is_waited_and_goes_with_others(server, user):
    """Latency is added to what else happens."""
    author = user()
    server.control("faults", operation="post_status", kind="latency", milliseconds=120)
    server.control("faults", operation="post_status", kind="error_500_before", count=1)
    started = time.perf_counter()
    assert outcome(author) == 500
    assert time.perf_counter() - started >= 0.12


def test_fault__meets_only_its_operation_and_accounts(server, user):
    """Others are not touched."""
    author, other = user(), user("tianshan-jobs")
    server.control("faults", operation="post_status", kind="error_500_before", accounts=["tianshan"])
    assert outcome(author) == 500
    assert outcome(other) == 200
    assert author.http.get("/api/v1/notifications").status_code == 200


def test_fault__after_commit_leaves_refusals_alone(server, user):
    """What was not committed is answered, and the fault waits for a commit."""
    author = user()
    server.control("faults", operation="post_status", kind="lost_reply_after_commit", count=1)
    assert author.post("").status_code == 422
    assert outcome(author) is httpx.RemoteProtocolError


def test_fault__dice_fall_the_same_with_the_same_seed(server, user):
    """A run can be repeated."""
    author, runs = user(), []
    for _ in range(2):
        server.http.delete("/control/faults")
        server.control("faults", operation="post_status", kind="error_500_before", probability=0.5, seed=7)
        runs.append([outcome(author) for _ in range(30)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}


def test_faults__are_listed_counted_and_cleared(server, user):
    """GET tells how often each was applied; DELETE ends them."""
    author = user()
    server.control("faults", operation="*", kind="error_500_before", count=2)
    assert [outcome(author) for _ in range(3)] == [500, 500, 200]
    assert server.http.get("/control/faults").json()["faults"][0]["applied"] == 2
    assert server.http.delete("/control/faults").status_code == 204
    assert server.http.get("/control/faults").json() == {"faults": []}


@pytest.mark.parametrize(
    "fault",
    [
        {"operation": "post_staus", "kind": "latency"},
        {"operation": "*", "kind": "gremlins"},
        {"operation": "*", "kind": "latency", "probability": 2},
        {"operation": "*", "kind": "latency", "account": []},
    ],
)
def test_fault__with_a_mistake_is_refused(server, fault):
    """A misspelt fault must not pass for one that never strikes."""
    assert server.http.post("/control/faults", json=fault).status_code == 422
    assert server.http.get("/control/faults").json() == {"faults": []}


def test_control__takes_json_only_and_can_be_off(own_server, server):
    """A web page's form cannot arm a fault, and a sandbox without control has no such paths."""
    assert server.http.post("/control/faults", data={"operation": "*"}).status_code == 415
    assert own_server(control="false").http.get("/control/log").status_code == 404


def test_attempts__come_in_pages(server, user):
    """Each attempt once, in order of arrival, with its outcome."""
    author = user()
    start = server.http.get("/control/attempts").json()["last_attempt"]
    for text in ("one", "", "three"):
        author.post(text, "key-1" if text else None)
    pages = []
    for after in range(start, start + 3):
        reply = server.http.get("/control/attempts", params={"after": after, "limit": 1}).json()
        pages += reply["attempts"]
    assert reply["last_attempt"] == start + 3
    assert [attempt["attempt"] for attempt in pages] == [start + 1, start + 2, start + 3]
    assert [attempt["http_status"] for attempt in pages] == [200, 422, 200]
    assert [attempt["idempotency_key"] for attempt in pages] == ["key-1", None, "key-1"]
    assert {attempt["account"] for attempt in pages} == {"tianshan"}
    assert len(server.log()) == 1
