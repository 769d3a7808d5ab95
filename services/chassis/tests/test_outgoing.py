"""Requests to addresses that others have named reach the public internet only."""

import asyncio
import socket
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from ipaddress import IPv4Network

import pytest
from yarl import URL

from services.chassis.outgoing import MAX_ANSWER, OutgoingClient
from services.chassis.outgoing_rules import Failure, OutgoingError, OutgoingRules
from services.chassis.testing.ssrf import Attack, Form, attacking, forms, listening

LOCAL = OutgoingRules(private_networks=(IPv4Network("127.0.0.0/8"),), plain_http=True, any_port=True)


def test_forms__are_many_and_different() -> None:
    """Two hundred forms at least, none twice."""
    urls = [form.url for form in forms(8080)]
    assert len(urls) >= 200
    assert len(set(urls)) == len(urls)


@pytest.mark.parametrize("way", ["direct", "redirect", "rebinding"])
async def test_attack__reaches_nothing_inside(way: str) -> None:
    """Every form, as the URL, as the place of a redirect, and behind a name that changes: no connection is seen."""
    async with attacking() as attack:
        outcome = await getattr(attack, way)()
        assert outcome.tried >= len(attack.forms)
        assert not outcome.answered
        assert outcome.connections == 0
        if way != "direct":
            assert attack.outside.connections >= len(attack.forms)  # the way led as far as it should


async def test_attack__would_be_seen() -> None:
    """The listeners count: what the rules permit does arrive."""
    async with attacking() as attack, OutgoingClient(LOCAL) as client:
        assert len(attack.inside.addresses) >= 2
        await client.post(f"http://127.0.0.1:{attack.inside.port}/", b"", {})
        await client.post(f"http://127.255.255.254:{attack.inside.port}/", b"", {})
        assert attack.inside.connections == 2


@pytest.mark.parametrize("form", forms(443), ids=lambda form: ascii(form.url))
def test_permits__nothing_that_is_not_public(form: Form) -> None:
    """Whatever the notation, the address that it means is not permitted."""
    assert not OutgoingRules().permits(form.address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00:1450::1"],
)
def test_permits__what_is_public(address: str) -> None:
    """Addresses that anybody may reach."""
    assert OutgoingRules().permits(address)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.example", "https://hooks.example/"),
        ("https://HOOKS.Example:443/a%20b?c=d&e", "https://hooks.example/a%20b?c=d&e"),
        ("https://xn--fiq228c.example/in", "https://xn--fiq228c.example/in"),
        ("https://1.1.1.1/", "https://1.1.1.1/"),
        ("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]/"),
        ("https://hooks.example:80/", "https://hooks.example:80/"),
    ],
)
def test_check__takes_plain_urls(url: str, shown: str) -> None:
    """What is taken goes out as it came, and its host is the one that was looked at."""
    checked = OutgoingRules().check(url)
    assert checked == shown
    assert URL(checked, encoded=True).raw_host == shown.split("/")[2].removesuffix(":80").strip("[]")


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "https://hooks.example:8443/",
        "https://hooks.example/#part",
        "https://hooks.example/a b",
        "https://hooks.example/" + "x" * 2000,
        f"https://{'a.' * 130}example/",
        "https://hooks.example:99999/",
    ],
)
def test_check__refuses_by_default(url: str) -> None:
    """Plain http and other ports need a setting; the rest is malformed."""
    with pytest.raises(OutgoingError) as refused:
        OutgoingRules().check(url)
    assert refused.value.failure is Failure.URL_REFUSED


def saying(reply: bytes) -> AbstractAsyncContextManager[int]:
    """A server that sends this, whatever it is asked, and waits for the other side to go; gives its port."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()
        await reader.read()

    return listening(say)


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (b"", Failure.TIMEOUT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Failure.TIMEOUT),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Failure.PROTOCOL_ERROR),
    ],
)
async def test_post__has_an_end(reply: bytes, failure: Failure) -> None:
    """A server that says nothing, not all, or something else."""
    async with saying(reply) as port, OutgoingClient(LOCAL, timeout=timedelta(seconds=0.3)) as client:
        with pytest.raises(OutgoingError) as failed:
            await client.post(f"http://127.0.0.1:{port}/", b"", {})
    assert failed.value.failure is failure


async def test_post__reads_little() -> None:
    """An endless answer, or one that would unpack to much, costs at most what is read of it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1000000000\r\n\r\n"
    async with (
        saying(head + b"\0" * 4 * MAX_ANSWER) as port,
        OutgoingClient(LOCAL, timeout=timedelta(seconds=5)) as client,
    ):
        assert (await client.post(f"http://127.0.0.1:{port}/", b"", {})).status == 200


async def test_fetch__keeps_what_is_answered_up_to_a_limit() -> None:
    """Also a redirect, which is not followed; one byte more than wanted is a failure."""
    head = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 5\r\n\r\n"
    async with saying(head + b"hello") as port, OutgoingClient(LOCAL) as client:
        url = f"http://127.0.0.1:{port}/"
        answer = await client.fetch("GET", url, headers={}, limit=5)
        assert (answer.status, answer.body) == (302, b"hello")
        with pytest.raises(OutgoingError) as failed:
            await client.fetch("GET", url, headers={}, limit=4)
    assert failed.value.failure is Failure.PROTOCOL_ERROR


async def test_post__tells_what_failed() -> None:
    """Nobody listens; the name is unknown; the server speaks no TLS."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]

    async def unknown(_host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    async with (
        saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port,
        OutgoingClient(LOCAL, look_up=unknown, timeout=timedelta(seconds=5)) as client,
    ):
        for url, failure in (
            (f"http://127.0.0.1:{closed}/", Failure.CONNECTION_FAILED),
            ("http://hooks.example/", Failure.NAME_UNKNOWN),
            (f"https://127.0.0.1:{port}/", Failure.TLS_FAILED),
        ):
            with pytest.raises(OutgoingError) as failed:
                await client.post(url, b"", {})
            assert failed.value.failure is failure


async def test_post__uses_no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would reach what we may not."""
    async with attacking() as attack:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{attack.inside.port}")
        async with OutgoingClient(LOCAL) as client:
            await client.post(f"http://{Attack.public}:{attack.outside.port}/", b"", {})
        assert (attack.inside.connections, attack.outside.connections) == (0, 1)
