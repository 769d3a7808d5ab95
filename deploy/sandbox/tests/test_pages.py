"""What a browser sees."""

import pytest

from deploy.sandbox.pages import initials
from deploy.sandbox.people import Person


def test_home__shows_the_newest_public_posts(server):
    """Newest first, with their authors; no markup of theirs, and nothing that is not public."""
    with Person(server.url, "tianshan") as author, Person(server.url, "alice") as reader:
        made = author.post("first <script>alert(1)</script>")
        author.post("only for @alice", visibility="direct")
        reader.repost(made["id"])
        reader.favourite(made["id"])
        reader.comment(made["id"], "nice")
    page = server.http.get("/")
    assert page.status_code == 200
    assert page.text.index("nice") < page.text.index("first &lt;script&gt;")
    assert "only for" not in page.text
    assert "天山汽车 Tianshan Motors" in page.text
    assert "in answer to" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_home__pages_to_older_posts(server, user):
    """Thirty on a page, each post on one of them."""
    author = user()
    for number in range(31):
        author.post(f"post {number:02}.")
    first = server.http.get("/").text
    older = first.partition("?max_id=")[2].partition('"')[0]
    second = server.http.get("/", params={"max_id": older}).text
    assert [f"post {number:02}." in first for number in range(31)] == [False] + [True] * 30
    assert [f"post {number:02}." in second for number in range(31)] == [True] + [False] * 30


def test_profile_and_status__lead_from_the_api(server):
    """The `url` of an account, its avatar, and of a post can be opened."""
    with Person(server.url, "tianshan") as author, Person(server.url, "alice") as reader:
        made = author.post("question of the day")
        reader.comment(made["id"], "answer of the day")
    for url in (made["account"]["url"], made["account"]["uri"], made["url"], made["uri"]):
        assert "question of the day" in server.http.get(url).text
    assert "answer of the day" in server.http.get(made["url"]).text
    avatar = server.http.get(made["account"]["avatar"])
    assert avatar.headers["content-type"] == "image/svg+xml"
    assert "天" in avatar.text


@pytest.mark.parametrize(
    "path",
    [
        "/@nobody",
        "/@tianshan/1",
        "/@tianshan/x",
        "/nothing",
        "/media/none.png",
        "/?max_id=x",
        "/avatars/x.svg",
    ],
)
def test_page__that_is_not_there(server, path):
    """A page for people says so."""
    reply = server.http.get(path)
    assert reply.status_code == 404
    assert "There is nothing here." in reply.text


def test_api__that_is_not_there(server):
    """A program gets JSON."""
    assert server.http.get("/api/v1/nothing").json() == {"error": "Record not found"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("李娜", "李"), ("天山汽车 Tianshan", "天"), ("Alice Morgan", "AM"), ("Inês", "I"), (" ", "?")],
)
def test_initials(name, expected):
    """One Chinese character, or up to two letters."""
    assert initials(name) == expected
