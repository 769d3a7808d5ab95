"""What becomes of the Idempotency-Key in each mode."""

from concurrent.futures import ThreadPoolExecutor

import pytest


def post_at_once(author, key, times=20):
    """The same request, `times` at once."""
    with ThreadPoolExecutor(times) as pool:
        replies = list(pool.map(lambda _: author.post("same", key), range(times)))
    assert {reply.status_code for reply in replies} == {200}
    return {reply.json()["id"] for reply in replies}


@pytest.mark.parametrize(("mode", "posts"), [("honours", 1), ("ignores", 2), ("serial", 1)])
def test_key__twice_one_after_another(server, user, mode, posts):
    """Honoured, the second request answers with the first post, even if its text is another."""
    server.control("mode", mode=mode)
    author = user()
    first = author.post("first text", "key-1").json()
    second = author.post("second text", "key-1").json()
    assert len({first["id"], second["id"]}) == posts
    assert len(server.log()) == posts
    if posts == 1:
        assert second["content"] == "<p>first text</p>"


def test_key__at_once_when_honoured(server, user):
    """Twenty at once make one post."""
    author = user()
    assert len(post_at_once(author, "key-1")) == 1
    assert [entry["idempotency_key"] for entry in server.log()] == ["key-1"]


def test_key__at_once_when_ignored(server, user):
    """Twenty at once make twenty posts."""
    server.control("mode", mode="ignores")
    assert len(post_at_once(user(), "key-1")) == 20
    assert len(server.log()) == 20


def test_key__at_once_when_serial(server, user):
    """Several at once make several posts, and one that comes later makes none."""
    server.control("mode", mode="serial")
    author = user()
    made = post_at_once(author, "key-1")
    assert len(made) > 1
    assert author.post("same", "key-1").json()["id"] in made
    assert len(server.log()) == len(made)


def test_key__belongs_to_its_account(server, user):
    """Two accounts may use the same key."""
    ids = {user(name).post("hello", "key-1").json()["id"] for name in ("tianshan", "tianshan-jobs")}
    assert len(ids) == 2


def test_key__is_not_spent_by_a_refusal(server, user):
    """After 422 the key still makes a post."""
    author = user()
    assert author.post("", "key-1").status_code == 422
    assert author.post("now with text", "key-1").status_code == 200
    assert len(server.log()) == 1


def test_key__of_a_deleted_post(server, user):
    """There is nothing left to answer with, and no second post."""
    author = user()
    made = author.post("hello", "key-1").json()["id"]
    author.http.delete(f"/api/v1/statuses/{made}")
    assert author.post("hello", "key-1").status_code == 404
    assert len(server.log()) == 1


def test_key__is_forgotten_after_its_life(own_server, user):
    """A key older than its life makes a new post."""
    server = own_server(idempotency_seconds="0.3")
    author = user(on=server)
    first = author.post("hello", "key-1").json()["id"]
    for _ in range(1000):
        if author.post("hello", "key-1").json()["id"] != first:
            break
    assert len(server.log()) == 2


@pytest.mark.parametrize(
    ("mode", "name", "version"),
    [("honours", "mastodon", "4.3."), ("ignores", "gotosocial", "0.20."), ("serial", "hollo", "0.6.")],
)
def test_mode__shows_in_the_software(server, mode, name, version):
    """A client can tell by nodeinfo and by the instance what to expect."""
    server.control("mode", mode=mode)
    link = server.http.get("/.well-known/nodeinfo").json()["links"][0]["href"]
    software = server.http.get(link).json()["software"]
    assert software["name"] == name
    assert software["version"].startswith(version)
    for path in ("/api/v1/instance", "/api/v2/instance"):
        assert server.http.get(path).json()["version"] == software["version"]
