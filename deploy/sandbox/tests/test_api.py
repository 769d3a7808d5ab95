"""Posts, timelines, notifications, media and errors, as a client of the Mastodon API sees them."""

import json
import re
from datetime import datetime

import pytest


def link(response, relation):
    """The URL of one relation in a Link header."""
    found = re.search(rf'<([^>]*)>; rel="{relation}"', response.headers.get("link", ""))
    return found and found[1]


def test_post__answers_with_the_status(server, user):
    """Sanitised HTML, an opaque id above 2^53, ISO 8601 times, and rate-limit headers."""
    author = user()
    reply = author.post(
        "Hello <b>you</b> & all\nsecond line\n\nsee https://tianshan.example/a?b=1&c=2, @alice!"
    )
    status = reply.json()
    assert int(status["id"]) > 2**53
    assert datetime.fromisoformat(status["created_at"]).tzinfo
    assert status["content"] == (
        "<p>Hello &lt;b&gt;you&lt;/b&gt; &amp; all<br>second line</p>"
        '<p>see <a href="https://tianshan.example/a?b=1&amp;c=2" rel="nofollow noopener" target="_blank">'
        "https://tianshan.example/a?b=1&amp;c=2</a>, "
        f'<a href="{server.url}/@alice" class="u-url mention">@<span>alice</span></a>!</p>'
    )
    assert [mention["acct"] for mention in status["mentions"]] == ["alice"]
    assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= set(reply.headers)
    assert author.http.get(f"/api/v1/statuses/{status['id']}").json() == status


def test_post__form_and_log(server, user):
    """A form does as well as JSON; the log has all that was committed."""
    author = user()
    parent = author.post("parent").json()["id"]
    form = {
        "status": " 你好 ",
        "in_reply_to_id": parent,
        "visibility": "unlisted",
        "spoiler_text": "s",
        "language": "zh",
    }
    made = author.http.post("/api/v1/statuses", data=form, headers={"Idempotency-Key": "k"}).json()
    first, entry = server.log()
    assert entry.pop("time") > first["time"]
    assert entry == {
        "sequence": first["sequence"] + 1,
        "account": "tianshan",
        "account_id": author.me["id"],
        "status_id": made["id"],
        "text": "你好",
        "idempotency_key": "k",
        "in_reply_to_id": parent,
        "application": "Tests",
        "visibility": "unlisted",
        "sensitive": False,
        "spoiler_text": "s",
        "language": "zh",
        "media_ids": [],
    }
    assert server.log_file()[1]["text"] == "你好"


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"status": ""}, 422, "Validation failed: Text can't be blank"),
        ({"status": "  \n"}, 422, "Validation failed: Text can't be blank"),
        ({"status": "x" * 501}, 422, "Validation failed: Text character limit of 500 exceeded"),
        (
            {"status": "x", "visibility": "all"},
            422,
            "Validation failed: Visibility is not included in the list",
        ),
        ({"status": "x", "in_reply_to_id": "1"}, 404, None),
        ({"status": "x", "in_reply_to_id": "abc"}, 404, "Record not found"),
        ({"status": "x", "media_ids": ["1"]}, 422, "Media 1 could not be found"),
        ({"status": "x", "scheduled_at": "2040-01-01T00:00:00Z"}, 422, None),
        ({"status": ["x"]}, 422, "Validation failed: status must be a string"),
        ({"status": "\ud800"}, 422, "Validation failed: status is not valid Unicode"),
    ],
)
def test_post__refused(server, user, body, status, error):
    """What cannot be posted is told, and not committed."""
    raw = json.dumps(body)  # httpx would refuse to send the lone surrogate
    reply = user().http.post("/api/v1/statuses", content=raw, headers={"Content-Type": "application/json"})
    assert reply.status_code == status
    assert error is None or reply.json() == {"error": error}
    assert server.log() == []


def test_post__limit_counts_as_clients_do(user):
    """500 characters will do; any URL counts as 23."""
    author = user()
    assert author.post("字" * 500).status_code == 200
    assert author.post("x" * 476 + " https://tianshan.example/" + "y" * 200).status_code == 200
    assert author.post("x" * 477 + " https://tianshan.example/" + "y" * 200).status_code == 422


@pytest.mark.parametrize("token", ["", "Bearer wrong", "Basic YTpi"])
def test_post__without_a_token(server, token):
    """401 says so in the body that clients know."""
    reply = server.http.post("/api/v1/statuses", json={"status": "x"}, headers={"Authorization": token})
    assert (reply.status_code, reply.json()) == (401, {"error": "The access token is invalid"})


@pytest.mark.parametrize("content", ["{", "[]", '"x"'])
def test_post__unreadable_body(user, content):
    """400, not a failure of the server."""
    reply = user().http.post(
        "/api/v1/statuses", content=content, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 400


def test_rate_limit__is_enforced(own_server, user):
    """The headers count down, then 429."""
    author = user(on=own_server(rate_limit="3"))
    remaining = [author.post("x").headers["x-ratelimit-remaining"] for _ in range(2)]
    assert remaining == ["1", "0"]
    assert author.post("x").status_code == 429


def test_edit_and_delete(server, user):
    """Only one's own; a deletion gives back the source, and its reposts go with it."""
    author, other = user(), user("alice")
    made = author.post("first").json()["id"]
    path = f"/api/v1/statuses/{made}"
    repost = other.http.post(f"{path}/reblog").json()["id"]
    assert other.http.put(path, json={"status": "mine"}).status_code == 404
    assert other.http.delete(path).status_code == 404
    edited = author.http.put(path, json={"status": "second"}).json()
    assert edited["content"] == "<p>second</p>"
    assert edited["edited_at"]
    assert author.http.delete(path).json()["text"] == "second"
    assert author.http.get(path).status_code == 404
    assert other.http.get(f"/api/v1/statuses/{repost}").status_code == 404
    assert (author.timeline(), other.timeline()) == ([], [])
    assert len(server.log()) == 1


def test_visibility__hides_as_if_not_there(server, user):
    """`private` is for all who are signed in, `direct` for those addressed; the public timeline has only `public`."""
    author, alice, ben = user(), user("alice"), user("ben")
    ids = {
        kind: author.post("@alice psst", visibility=kind).json()["id"]
        for kind in ("unlisted", "private", "direct")
    }
    expected = {"unlisted": (200, 200, 200), "private": (404, 200, 200), "direct": (404, 404, 200)}
    for kind, status_id in ids.items():
        path = f"/api/v1/statuses/{status_id}"
        assert (
            tuple(http.get(path).status_code for http in (server.http, ben.http, alice.http))
            == expected[kind]
        )
    assert server.http.get("/api/v1/timelines/public").json() == []
    assert len(ben.http.get("/api/v1/timelines/home").json()) == 2


def test_timeline__pages_by_link_in_both_directions(server, user):
    """`next` walks to the oldest, `prev` back to the newest, each post once."""
    author = user()
    newest_first = [author.post(f"post {number}").json()["id"] for number in range(7)][::-1]
    pages, url = [], f"/api/v1/accounts/{author.me['id']}/statuses?limit=3&exclude_replies=true"
    while url:
        reply = author.http.get(url)
        pages.append([status["id"] for status in reply.json()])
        url = link(reply, "next")
        assert url is None or "exclude_replies=true" in url
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [status_id for page in pages for status_id in page] == newest_first

    newer = author.http.get(link(reply, "prev"))
    assert [status["id"] for status in newer.json()] == newest_first[3:6]
    newer = author.http.get(link(newer, "prev"))
    assert [status["id"] for status in newer.json()] == newest_first[:3]
    last = author.http.get(link(newer, "prev"))
    assert (last.json(), last.headers.get("link")) == ([], None)


def test_timeline__bounds(user):
    """`since_id` takes the newest of the newer ones, `min_id` the oldest of them; bounds are left out."""
    author = user()
    ids = [author.post(f"post {number}").json()["id"] for number in range(6)]
    assert author.timeline(since_id=ids[1], limit=2) == [ids[5], ids[4]]
    assert author.timeline(min_id=ids[1], limit=2) == [ids[3], ids[2]]
    assert author.timeline(max_id=ids[2], since_id=ids[0]) == [ids[1]]
    assert len(author.timeline(limit=0)) == 1
    assert len(author.timeline(limit="many")) == 6


def test_timeline__filters(user):
    """Answers and reposts can be left out."""
    author, other = user(), user("alice")
    theirs = other.post("theirs").json()["id"]
    mine = author.post("mine").json()["id"]
    answer = author.post("answer", in_reply_to_id=theirs).json()["id"]
    repost = author.http.post(f"/api/v1/statuses/{theirs}/reblog").json()["id"]
    assert author.timeline() == [repost, answer, mine]
    assert author.timeline(exclude_replies=True) == [repost, mine]
    assert author.timeline(exclude_reblogs=True) == [answer, mine]
    assert author.timeline(only_media=True) == author.timeline(pinned=True) == []
    public = [status["id"] for status in author.http.get("/api/v1/timelines/public").json()]
    assert public == [mine, theirs]


def test_context__shows_the_thread(server, user):
    """Above: what it answers, outermost first. Below: each answer, followed by its own answers."""
    author = user()
    ids = [author.post("0").json()["id"]]
    for parent in (0, 1, 1, 2):
        ids.append(author.post(str(len(ids)), in_reply_to_id=ids[parent]).json()["id"])
    context = server.http.get(f"/api/v1/statuses/{ids[1]}/context").json()
    assert [status["id"] for status in context["ancestors"]] == [ids[0]]
    assert [status["id"] for status in context["descendants"]] == [ids[2], ids[4], ids[3]]


def test_repost_and_favourite(server, user):
    """Twice is once; both can be taken back; a repost of a repost is one of the original."""
    author, alice, ben = user(), user("alice"), user("ben")
    made = author.post("hello").json()["id"]
    path = f"/api/v1/statuses/{made}"
    first = alice.http.post(f"{path}/reblog").json()
    assert alice.http.post(f"{path}/reblog").json()["id"] == first["id"]
    assert first["reblog"]["id"] == made
    ben.http.post(f"/api/v1/statuses/{first['id']}/reblog")
    for _ in range(2):
        ben.http.post(f"{path}/favourite")
    status = server.http.get(path).json()
    assert (status["reblogs_count"], status["favourites_count"]) == (2, 1)
    names = [account["acct"] for account in server.http.get(f"{path}/reblogged_by").json()]
    assert names == ["alice", "ben"]
    assert [account["acct"] for account in server.http.get(f"{path}/favourited_by").json()] == ["ben"]
    assert alice.http.post(f"{path}/unreblog").json()["reblogged"] is False
    assert server.http.get(path).json()["reblogs_count"] == 1
    assert len(server.log()) == 1


def test_notifications__of_reblog_comment_mention_and_favourite(user):
    """Each reaches the one concerned once, and none comes of one's own deeds."""
    author, alice = user(), user("alice")
    made = author.post("hello @tianshan").json()["id"]
    alice.http.post(f"/api/v1/statuses/{made}/reblog")
    comment = alice.post("@tianshan how much?", in_reply_to_id=made).json()["id"]
    alice.http.post(f"/api/v1/statuses/{made}/favourite")
    mention = alice.post("I like @tianshan").json()["id"]
    silent = alice.post("no name in it", in_reply_to_id=made).json()["id"]

    found = author.http.get("/api/v1/notifications").json()
    assert [(known["type"], known["status"]["id"]) for known in found] == [
        ("mention", silent),
        ("mention", mention),
        ("favourite", made),
        ("mention", comment),
        ("reblog", made),
    ]
    assert {known["account"]["acct"] for known in found} == {"alice"}
    assert alice.http.get("/api/v1/notifications").json() == []

    def listed(**query):
        return [known["type"] for known in author.http.get("/api/v1/notifications", params=query).json()]

    assert listed(**{"types[]": ["reblog", "favourite"]}) == ["favourite", "reblog"]
    assert listed(**{"exclude_types[]": "mention"}) == ["favourite", "reblog"]
    assert listed(min_id=found[3]["id"], limit=1) == ["favourite"]
    reply = author.http.get("/api/v1/notifications", params={"limit": 2, "types[]": "mention"})
    older = author.http.get(link(reply, "next")).json()
    assert [known["status"]["id"] for known in older] == [comment]


def test_notifications__go_with_their_cause(user):
    """A deleted comment and a repost taken back are no longer told."""
    author, alice = user(), user("alice")
    made = author.post("hello").json()["id"]
    alice.http.post(f"/api/v1/statuses/{made}/reblog")
    comment = alice.post("hm", in_reply_to_id=made).json()["id"]
    alice.http.delete(f"/api/v1/statuses/{comment}")
    alice.http.post(f"/api/v1/statuses/{made}/unreblog")
    assert author.http.get("/api/v1/notifications").json() == []


def test_notifications__of_an_edit_only_to_the_newly_mentioned(user):
    """Who was told before is not told again."""
    author, alice, ben = user(), user("alice"), user("ben")
    made = author.post("for @alice").json()["id"]
    author.http.put(f"/api/v1/statuses/{made}", json={"status": "for @alice and @ben"})
    assert len(alice.http.get("/api/v1/notifications").json()) == 1
    assert len(ben.http.get("/api/v1/notifications").json()) == 1


def upload(author, **changes):
    file = {"name": "car.png", "content": b"\x89PNG rest", "type": "image/png"} | changes
    return author.http.post(
        "/api/v2/media",
        files={"file": (file["name"], file["content"], file["type"])},
        data={"description": "A car"},
    )


def test_media__ready_at_once(server, user):
    """200 with a URL that serves the bytes; once attached, it is part of the post."""
    author = user()
    reply = upload(author)
    assert reply.status_code == 200
    assert server.http.get(reply.json()["url"]).content == b"\x89PNG rest"
    status = author.post("", media_ids=[reply.json()["id"]]).json()
    assert status["media_attachments"][0]["description"] == "A car"
    assert author.post("again", media_ids=[reply.json()["id"]]).status_code == 422
    assert author.http.get(f"/api/v1/media/{reply.json()['id']}").status_code == 404


def test_media__takes_its_time(server, user):
    """202, then 206 while it is processed (not to be attached), then 200."""
    server.control("mode", media_milliseconds=300)
    author = user()
    reply = upload(author)
    assert (reply.status_code, reply.json()["url"]) == (202, None)
    media_id = reply.json()["id"]
    assert author.post("too early", media_ids=[media_id]).status_code == 422
    seen = []
    while not seen or (seen[-1] == 206 and len(seen) < 100_000):
        seen.append(author.http.get(f"/api/v1/media/{media_id}").status_code)
    assert seen[0] == 206
    assert seen[-1] == 200
    assert author.post("now", media_ids=[media_id]).status_code == 200


def test_media__refused(user):
    """Unknown types, long descriptions, too many, and other people's."""
    author, other = user(), user("alice")
    assert upload(author, name="a.exe", type="application/x-dosexec").status_code == 422
    assert author.http.post("/api/v2/media", data={"description": "x"}).status_code == 422
    theirs = upload(other).json()["id"]
    assert author.post("x", media_ids=[theirs]).status_code == 422
    assert author.post("x", media_ids=[upload(author).json()["id"] for _ in range(5)]).status_code == 422
    assert author.http.get(f"/api/v1/media/{theirs}").status_code == 404


def test_instance__tells_limits(own_server):
    """What a client must read, not assume."""
    server = own_server(max_characters="5000")
    configuration = server.http.get("/api/v2/instance").json()["configuration"]
    assert configuration["statuses"]["max_characters"] == 5000
    assert configuration["statuses"]["max_media_attachments"] == 4
    assert "image/png" in configuration["media_attachments"]["supported_mime_types"]


def test_account__lookup_and_users(server, user):
    """By name; a user made by control can log in."""
    server.control("users", username="Visitor.1", password="sandbox-password", display_name="V", followers=3)
    assert (
        server.http.post("/control/users", json={"username": "visitor.1", "password": "x"}).status_code == 409
    )
    found = server.http.get("/api/v1/accounts/lookup", params={"acct": "visitor.1"}).json()
    assert (found["username"], found["followers_count"]) == ("Visitor.1", 3)
    assert user("visitor.1").me["id"] == found["id"]
    assert server.http.get("/api/v1/accounts/lookup", params={"acct": "nobody"}).status_code == 404
    assert server.http.get("/api/v1/accounts/0").status_code == 404
