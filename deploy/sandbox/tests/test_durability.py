"""What was committed outlives a kill -9 of the sandbox; what was not does not appear."""

import json
import threading

import httpx
import pytest

from deploy.sandbox.journal import Journal


def test_kill__loses_no_acknowledged_post(own_server, user):
    """Killed under load, five times: each acknowledged post is in the log once, and on the timeline."""
    server = own_server()
    acknowledged: set[str] = set()
    attempted: set[str] = set()
    tokens = [server.token(name) for name in ("tianshan", "tianshan-jobs", "alice", "ben")]

    def post_until_killed(token, prefix):
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=server.url, headers=headers) as client:
            for number in range(100_000):
                text = f"{prefix}-{number}"
                attempted.add(text)
                try:
                    reply = client.post("/api/v1/statuses", json={"status": text})
                except httpx.TransportError:
                    return
                assert reply.status_code == 200
                acknowledged.add(text)

    for turn in range(5):
        threads = [
            threading.Thread(target=post_until_killed, args=(token, f"{turn}-{number}"))
            for number, token in enumerate(tokens)
        ]
        before = len(acknowledged)
        for thread in threads:
            thread.start()
        while len(acknowledged) < before + 50:
            assert any(thread.is_alive() for thread in threads)
        server.kill()
        for thread in threads:
            thread.join()
        server.start()

    entries = server.log()
    texts = [entry["text"] for entry in entries]
    assert len(acknowledged) >= 250
    assert acknowledged <= set(texts) <= attempted
    assert len(texts) == len(set(texts))
    assert [entry["sequence"] for entry in entries] == list(range(1, len(entries) + 1))
    assert server.log_file() == entries
    for entry in entries[-4:]:
        found = server.http.get(f"/api/v1/statuses/{entry['status_id']}").json()
        assert found["content"] == f"<p>{entry['text']}</p>"


def test_restart__brings_all_back(own_server, user):
    """Tokens, posts, answers, reposts, favourites, edits, deletions, media, notifications, keys and the mode."""
    server = own_server()
    author, reader = user(on=server), user("alice", on=server)
    media = author.http.post("/api/v2/media", files={"file": ("a.png", b"\x89PNG", "image/png")}).json()
    kept = author.post("first", "key-1", media_ids=[media["id"]]).json()["id"]
    gone = author.post("second").json()["id"]
    reader.http.post(f"/api/v1/statuses/{kept}/reblog")
    reader.http.post(f"/api/v1/statuses/{kept}/favourite")
    answer = reader.post("why?", in_reply_to_id=kept).json()["id"]
    author.http.put(f"/api/v1/statuses/{kept}", json={"status": "first, but better"})
    author.http.delete(f"/api/v1/statuses/{gone}")
    server.control("mode", media_milliseconds=50)

    def seen():
        paths = [
            f"/api/v1/statuses/{kept}",
            f"/api/v1/statuses/{kept}/context",
            f"/api/v1/statuses/{gone}",
            "/api/v1/notifications",
            "/api/v1/timelines/home",
            "/api/v1/accounts/verify_credentials",
            "/control/mode",
            "/control/log",
        ]
        return [author.http.get(path).json() for path in paths]

    before = seen()
    assert before[0]["replies_count"] == before[0]["reblogs_count"] == before[0]["favourites_count"] == 1
    assert before[1]["descendants"][0]["id"] == answer
    attempts = server.attempts("post_status")
    server.kill()
    server.start()
    assert seen() == before
    assert server.attempts("post_status") == attempts
    assert author.post("first", "key-1").json()["id"] == kept
    assert len(author.post("newer").json()["id"]) >= 16
    assert [entry["sequence"] for entry in server.log()] == [1, 2, 3, 4]


@pytest.mark.parametrize("log", [False, True])
def test_reset__holds_after_a_restart(own_server, user, log):
    """Posts are gone, accounts and tokens stay, and the log stays unless asked; numbers are never used again."""
    server = own_server()
    author = user(on=server)
    author.post("before", "key-1")
    server.control("faults", operation="post_status", kind="error_500_before")
    server.control("mode", mode="ignores")
    server.control("reset", log=log)
    assert author.post("after", "key-1").status_code == 200
    server.kill()
    server.start()
    assert len(author.timeline()) == 1
    assert server.http.get("/control/mode").json()["mode"] == "honours"
    assert [entry["sequence"] for entry in server.log()] == ([2] if log else [1, 2])
    assert server.log(after=1)[0]["text"] == "after"
    assert server.log(after=2) == []


def test_reset__of_accounts_makes_them_anew(own_server, user):
    """All tokens are gone, and the people of the demonstration are back."""
    server = own_server()
    author = user(on=server)
    server.control("users", username="visitor", password="secret")
    server.control("reset", accounts=True)
    assert author.post("hello").status_code == 401
    names = {known["username"] for known in server.http.get("/control/users").json()["users"]}
    assert len(names) == 34
    assert "visitor" not in names


def test_start__refuses_a_directory_in_use(own_server):
    """Two sandboxes would spoil each other's log."""
    server = own_server()
    with pytest.raises(BlockingIOError):
        Journal(server.directory / "published.jsonl")


def test_journal__drops_a_line_that_was_cut_short(tmp_path):
    """Half a line was never committed; the next one begins where it began."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append({"n": 1})
    journal.append({"text": "x" * 200_000})
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    journal = Journal(path)
    journal.append({"n": 2})
    assert [json.loads(line) for _, line in journal.lines()] == [{"n": 1}, {"n": 2}]
    journal.close()
