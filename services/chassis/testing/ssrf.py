"""
Two hundred and more ways to name what is not public, and an attack on `outgoing` with all of them.

`make verify-accounts` runs it, as the tests do.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network

from services.chassis.outgoing import Answer, OutgoingClient
from services.chassis.outgoing_rules import OutgoingError, OutgoingRules

_TARGETS = ("127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.0.1")
_ADDRESSES_4 = (
    "0.0.0.0", "127.0.0.1", "127.255.255.254", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1",  # noqa: S104
    "192.168.255.255", "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "100.127.255.255", "192.0.0.8",
    "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
)  # fmt: skip
_ADDRESSES_6 = (
    "::1", "::", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1", "100::1", "2001::1", "2001:2::1",
    "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1", "64:ff9b::7f00:1", "64:ff9b:1::1",
    "64:ff9b::a00:1", "0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001", "::0001", "4000::1", "1fff::1",
)  # fmt: skip
_NAMES = (
    "localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "foo.localhost", "ip6-localhost", "intranet",
    "127.0.0.1.nip.example", "metadata.google.internal", "host.docker.internal", "kubernetes.default.svc", "router.local",
    "ｌｏｃａｌｈｏｓｔ", "loⓒalhost", "localhost%00", "localhost%2e", "xn--lcalhost-y5a.example", "a_b.example", "-a.example",
    "a-.example", "a..example", ".example", "example.", "hooks.example\u3002com", "hooks.0x7f", "hooks.1",
)  # fmt: skip
_TRICKS = (
    "http://hooks.example@127.0.0.1:{port}/", "http://hooks.example:443@127.0.0.1:{port}/", "http://@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}@hooks.example/", "http://:@127.0.0.1:{port}/", "http://hooks.example%40127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@hooks.example/", "http://127.0.0.1:{port}\\@hooks.example/", "http://127.0.0.1:{port}?@a.example/",
    "http://hooks.example\\@127.0.0.1:{port}/", "http:///127.0.0.1:{port}/", "http:127.0.0.1:{port}/", "http:/127.0.0.1:{port}/",
    "//127.0.0.1:{port}/", "\\\\127.0.0.1:{port}\\", " http://127.0.0.1:{port}/", "http://127.0.0.1:{port}/ ",
    "http://127.0.0.1\t:{port}/", "http://127.0.\n0.1:{port}/", "http://127.0.0.1;hooks.example:{port}/",
    "http://127.0.0.1,hooks.example:{port}/", "http://127.0.0.1 hooks.example:{port}/", "http://127.0.0.1\0.hooks.example:{port}/",
    "http://127.0.0.1%00.hooks.example:{port}/", "http://[::1%25lo]:{port}/", "http://[::1%lo]:{port}/",
    "http://[fe80::1%25eth0]:{port}/", "http://[::1:{port}/", "http://::1:{port}/", "http://[[::1]]:{port}/", "http://[]:{port}/",
    "HTTP://127.0.0.1:{port}/", "hTTp://LOCALHOST:{port}/", "http://127.0.0.1:{port}:80/", "http://127.0.0.1:80:{port}/",
    "http://127.0.0.1:+{port}/", "http://127.0.0.1:0{port}/", "http://127.0.0.1:{port}x/", "http://127.0.0.1:/", "http://127.0.0.1:0/",
    "http://127.0.0.1:65536/", "http://127.0.0.1:-1/", "http://127.0.0.1:２２/", "ftp://127.0.0.1:{port}/", "file:///etc/passwd",
    "file://127.0.0.1:{port}/", "gopher://127.0.0.1:{port}/_", "dict://127.0.0.1:{port}/", "ldap://127.0.0.1:{port}/",
    "data:text/plain,x", "javascript:0", "ws://127.0.0.1:{port}/", "wss://127.0.0.1:{port}/", "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "jar:http://127.0.0.1:{port}!/", "url:http://127.0.0.1:{port}/", "",
)  # fmt: skip

Take = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Form:
    """A URL that must not be reached, and the address that it means."""

    url: str
    address: str = "127.0.0.1"


def forms(port: int) -> list[Form]:
    """All forms, on a port where somebody listens."""
    found = [
        *(Form(f"http://{address}:{port}/", address) for address in _ADDRESSES_4),
        *(Form(f"http://[{address}]:{port}/", address) for address in _ADDRESSES_6),
        *(
            Form(f"http://[{address}]:{port}/", address)
            for target in _TARGETS
            for address in _embedded(IPv4Address(target))
        ),
        *(
            Form(f"http://{host}:{port}/", target)
            for target in _TARGETS
            for host in _spellings(IPv4Address(target))
        ),
        *(Form(f"http://{name}:{port}/") for name in _NAMES),
        *(Form(trick.format(port=port)) for trick in _TRICKS),
    ]
    return list(dict.fromkeys(found))  # two spellings of an address may be the same


def _embedded(target: IPv4Address) -> Iterator[str]:
    """IPv6 addresses that lead, or once led, to an IPv4 address."""
    high, low = int(target) >> 16, int(target) & 0xFFFF
    yield f"::ffff:{target}"
    yield f"::ffff:{high:x}:{low:x}"
    yield f"::{target}"
    yield f"::ffff:0:{target}"
    yield f"64:ff9b::{target}"
    yield f"64:ff9b:1::{target}"
    yield f"2002:{high:x}:{low:x}::1"
    yield f"2001:0:{high:x}:{low:x}::1"
    yield f"2001::{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}"
    yield f"fe80::5efe:{target}"


def _spellings(target: IPv4Address) -> Iterator[str]:
    """What some reader of URLs somewhere takes for this address."""
    number, (first, second, third, fourth) = int(target), target.packed
    yield str(number)
    yield str(number + (1 << 32))
    yield f"0x{number:x}"
    yield f"0X{number:X}"
    yield f"0{number:o}"
    yield f"{first}.{number & 0xFFFFFF}"
    yield f"{first}.{second}.{number & 0xFFFF}"
    yield ".".join(f"0x{part:x}" for part in target.packed)
    yield ".".join(f"0{part:o}" for part in target.packed)
    yield ".".join(f"{part:04o}" for part in target.packed)
    yield f"0{first}.{second}.{third}.{fourth}"
    yield f"0x{first:x}.{second}.0{third:o}.{fourth}"
    yield f"{first}.{second}.{third}.{fourth + 256}"
    yield f"{target}."
    yield f"[{target}]"
    yield str(target).translate({ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789"})
    yield str(target).translate({ord(digit): 0x2460 + int(digit) - 1 for digit in "123456789"})
    yield str(target).replace(".", "\u3002")
    yield str(target).replace(".", "%2e")
    yield "".join(f"%{ord(mark):02x}" for mark in str(target))
    yield str(target).replace(".", "\u200b.")


@dataclass
class Listener:
    """Counts who comes to a port of the addresses of this machine."""

    port: int
    connections: int = 0
    reply: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    addresses: list[str] = field(default_factory=list)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Count a connection, and answer."""
        self.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.reply)
        await writer.drain()


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What came of an attack.

    Attributes:
        tried: how many requests were made.
        answered: those that were not refused, by their URLs; of redirects: those that were followed.
        connections: how many the listeners on loopback and private addresses saw.
    """

    tried: int
    answered: Sequence[str]
    connections: int


class Attack:
    """
    Attacks the guard as it is at its loosest: any port, http, and one address of loopback that stands for the public.

    Made by `attacking`.
    """

    public = "127.0.0.2"

    def __init__(self, inside: Listener, outside: Listener) -> None:
        self.inside = inside
        self.outside = outside
        self.forms = forms(inside.port)
        self._rules = OutgoingRules(
            private_networks=(IPv4Network(f"{self.public}/32"),), plain_http=True, any_port=True
        )

    async def direct(self) -> Outcome:
        """Each form as the URL; a name resolves to what the form means."""
        return await self._try([(form.url, [[form.address]]) for form in self.forms])

    async def redirect(self) -> Outcome:
        """Each form as the place to which a server sends us on."""
        before, followed = self.inside.connections, []
        for form in self.forms:
            place = form.url.replace("\n", "%0a").replace("\0", "%00").encode()
            self.outside.reply = (
                b"HTTP/1.1 307 Elsewhere\r\nLocation: " + place + b"\r\nContent-Length: 0\r\n\r\n"
            )
            answer = (await self._calls(f"http://{self.public}:{self.outside.port}/", [[form.address]]))[0]
            if not isinstance(answer, Answer) or answer.status != HTTPStatus.TEMPORARY_REDIRECT:
                followed.append(form.url)
        return Outcome(len(self.forms), followed, self.inside.connections - before)

    async def rebinding(self) -> Outcome:
        """Each form's address behind a name: after the public one, and one public beside two that are not."""
        url = f"http://rebind.example:{self.inside.port}/"
        tries = []
        for form in self.forms:
            tries.append((url, [[form.address]]))
            tries.append((url, [[self.public, form.address, "10.0.0.1"]]))
        alternating = await self._alternating(url)
        outcome = await self._try(tries)
        return Outcome(
            outcome.tried + alternating.tried,
            [*outcome.answered, *alternating.answered],
            outcome.connections + alternating.connections,
        )

    async def _alternating(self, url: str) -> Outcome:
        """A name that is public at first, and so is called, and is not when it is called again."""
        before, answered = self.inside.connections, []
        self.outside.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        for form in self.forms:
            first, second = await self._calls(url, [[self.public], [form.address]])
            if not isinstance(first, Answer) or isinstance(second, Answer):
                answered.append(form.url)
        return Outcome(2 * len(self.forms), answered, self.inside.connections - before)

    async def _try(self, tries: Sequence[tuple[str, list[list[str]]]]) -> Outcome:
        before = self.inside.connections
        answered = [
            url for url, addresses in tries if isinstance((await self._calls(url, addresses))[0], Answer)
        ]
        return Outcome(len(tries), answered, self.inside.connections - before)

    async def _calls(self, url: str, addresses: list[list[str]]) -> list[Answer | OutgoingError]:
        """What came of calling `url` once for each answer of the resolver."""
        left = list(addresses)

        async def look_up(_host: str) -> list[str]:
            return left.pop(0)

        found: list[Answer | OutgoingError] = []
        async with OutgoingClient(self._rules, look_up=look_up) as client:
            for _ in addresses:
                try:
                    found.append(await client.post(url, b"{}", {}))
                except OutgoingError as error:
                    found.append(error)
        return found


@asynccontextmanager
async def attacking() -> AsyncIterator[Attack]:
    """Listeners on all addresses of this machine that are not public, and on the one that stands for the public."""
    async with AsyncExitStack() as stack:
        outside = Listener(0)
        outside.port = await stack.enter_async_context(listening(outside.take, Attack.public))
        inside = Listener(outside.port)
        for address in _own_addresses():
            await stack.enter_async_context(listening(inside.take, address, inside.port))
            inside.addresses.append(address)
        yield Attack(inside, outside)


@asynccontextmanager
async def listening(take: Take, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """A server that hands its connections to `take`; gives its port. Ends when all of them are done."""
    running: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.create_task(handle(reader, writer)))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await take(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(begin, address, port) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*running)


def _own_addresses() -> list[str]:
    """Loopback's, those of this machine's other interfaces, and IPv6's if there is one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.0.0.1", 9))  # sends nothing, but chooses the interface
            routed = [probe.getsockname()[0]]
        except OSError:
            routed = []
    found = ["127.0.0.1", "127.255.255.254", *routed]
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return list(dict.fromkeys(found))
    return list(dict.fromkeys([*found, "::1"]))
