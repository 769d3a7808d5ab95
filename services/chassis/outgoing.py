"""
Requests to addresses that somebody else has named, as a partner's webhook endpoint.

Such a request may reach the public internet only: else whoever names the address uses us to knock at our own doors
(server-side request forgery). What keeps it so, each by itself:

- A URL has one plain form (`OutgoingRules.check`). What parsers could read in two ways is refused, not repaired.
- A name is resolved once, and we connect to the very addresses found. If one of them is not public, none is taken.
- A socket is made for a public address only, and before the first byte leaves, its peer's address is looked at.
- Redirects are not followed, proxies of the environment not used, cookies not kept, answers not unpacked.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 2_000
"""The longest URL, in characters."""
MAX_ANSWER = 16 * 1024
"""How many bytes of an answer are read, to let its server finish; nobody sees them."""

_LOOKUPS = 64
_MAX_NAME = 253
_PORTS = frozenset({80, 443})
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!\"$-;=@-\[\]-~]*)?(?:\?(?P<query>[!\"$-;=?-\[\]-~]*))?",
    re.IGNORECASE,
)
_NUMBERS = re.compile(r"[0-9.]+")
_NAME = re.compile(r"(?:(?!-)[a-z0-9-]{1,63}(?<!-)\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])")
"""A name with a dot, whose last part begins with a letter: never one of the spellings of a number."""

# Lists of our own: `ipaddress.is_global` is wrong for several of them, and differs from one Python to the next.
_NOT_PUBLIC_4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
            "168.63.129.16/32",  # a public address at which a cloud answers its own machines
        ),
    )
)  # fmt: skip
# Only this is given out for use in public. NAT64, mapped and compatible addresses lie outside.
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
# Teredo and other protocols, documentation, 6to4, documentation.
_NOT_PUBLIC_6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


class Failure(StrEnum):
    """Why a request has no answer."""

    URL_REFUSED = "URL_REFUSED"
    """The URL is none that we call."""
    ADDRESS_REFUSED = "ADDRESS_REFUSED"
    """The host has an address that is not public."""
    NAME_UNKNOWN = "NAME_UNKNOWN"
    """The host's name has no address."""
    CONNECTION_FAILED = "CONNECTION_FAILED"
    """The server refused, or broke off."""
    TLS_FAILED = "TLS_FAILED"
    """The server's certificate is not good, or there is no common version."""
    TIMEOUT = "TIMEOUT"
    """There was no answer in time."""
    PROTOCOL_ERROR = "PROTOCOL_ERROR"
    """What the server sent is no HTTP."""


class OutgoingError(Exception):
    """
    A request has no answer.

    Attributes:
        failure: why.
        detail: for developers; names no address that we looked up.
    """

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(f"{failure}: {detail}")
        self.failure = failure
        self.detail = detail


@dataclass(frozen=True, slots=True)
class OutgoingRules:
    """
    What may be reached. As it is by default: https to public addresses, ports 80 and 443.

    Attributes:
        private_networks: networks that are not public and may be reached all the same, for tests and local platforms.
        plain_http: whether `http` is taken, too.
        any_port: whether every port is taken.
    """

    private_networks: tuple[Network, ...] = ()
    plain_http: bool = False
    any_port: bool = False

    def permits(self, address: str) -> bool:
        """Whether this IP address may be reached."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if any(parsed in network for network in self.private_networks):
            return True
        if isinstance(parsed, ipaddress.IPv4Address):
            return not any(parsed in network for network in _NOT_PUBLIC_4)
        if parsed.scope_id is not None or parsed not in _PUBLIC_6:
            return False
        return not any(parsed in network for network in _NOT_PUBLIC_6)

    def check(self, url: str) -> URL:
        """
        The URL, ready to be called. Says nothing of what its host's name resolves to: that is looked at by each call.

        Raises OutgoingError: URL_REFUSED, or ADDRESS_REFUSED when the host is an address that is not public.
        """
        found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
        if found is None:
            raise _refused(
                f"must be a URL as https://hooks.example/path, of at most {MAX_URL} characters, in ASCII, without user, "
                "password and fragment"
            )
        scheme, host = found["scheme"].lower(), found["host"].lower()
        if scheme != "https" and not self.plain_http:
            raise _refused("must begin with https://")
        port = int(found["port"] or (443 if scheme == "https" else 80))
        if port not in _PORTS and not (self.any_port and 0 < port < 1 << 16):
            raise _refused("must have no port, or 443 or 80")
        address = _address(host)
        if address is None and (len(host) > _MAX_NAME or not _NAME.fullmatch(host)):
            raise _refused(
                "must name a host by its full name, as hooks.example (an international one as xn--…), or by an address "
                "in its usual form"
            )
        if address is not None and not self.permits(address):
            raise OutgoingError(Failure.ADDRESS_REFUSED, "must lead to a public address")
        return URL.build(
            scheme=scheme,
            host=host if address is None else f"[{address}]" if ":" in address else address,
            port=port,
            path=found["path"] or "/",
            query_string=found["query"] or "",
            encoded=True,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered: the status and the headers, not the body."""

    status: int
    headers: Mapping[str, str]


LookUp = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host's name; raises OSError when there are none."""


class OutgoingClient:
    """
    Makes requests that keep to the rules. To be used as an asynchronous context manager.

    Each request has a connection of its own, so that each looks anew whom it speaks to.

    Args:
        rules: what may be reached.
        connect_timeout: how long resolving, connecting and TLS may take together.
        timeout: how long the whole request may take.
        look_up: by default the system's resolver, in threads of its own: names that hang hold up nobody else.
    """

    def __init__(
        self,
        rules: OutgoingRules,
        *,
        connect_timeout: timedelta = timedelta(seconds=5),
        timeout: timedelta = timedelta(seconds=15),
        look_up: LookUp | None = None,
    ) -> None:
        self._rules = rules
        self._timeout = aiohttp.ClientTimeout(
            total=timeout.total_seconds(), connect=connect_timeout.total_seconds()
        )
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="look-up")
        self._look_up = look_up or self._system_look_up

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=_Connector(self._rules, self._look_up),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post `body` to `url`. Any status is an answer, also a redirect. Raises OutgoingError."""
        target = self._rules.check(url)
        try:
            async with self._session.post(
                target, data=body, headers=headers, allow_redirects=False
            ) as response:
                await response.content.read(MAX_ANSWER)
                return Answer(response.status, response.headers)
        except OutgoingError:
            raise
        except TimeoutError:
            raise OutgoingError(Failure.TIMEOUT, "there was no answer in time") from None
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise OutgoingError(Failure.TLS_FAILED, type(error).__name__) from None
        except aiohttp.ClientConnectorDNSError:
            raise OutgoingError(Failure.NAME_UNKNOWN, "the host's name has no address") from None
        except (aiohttp.ClientConnectionError, OSError) as error:
            raise OutgoingError(Failure.CONNECTION_FAILED, type(error).__name__) from None
        except aiohttp.ClientError as error:
            raise OutgoingError(Failure.PROTOCOL_ERROR, type(error).__name__) from None

    async def _system_look_up(self, host: str) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(each[4][0]) for each in found))


class _Connector(aiohttp.TCPConnector):
    """Connects to permitted addresses only."""

    def __init__(self, rules: OutgoingRules, look_up: LookUp) -> None:
        super().__init__(
            resolver=_Resolver(rules, look_up),
            use_dns_cache=False,
            force_close=True,
            limit=0,
            socket_factory=self._make_socket,
        )
        self._rules = rules

    def _make_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """The last look before a connection: also addresses that were never resolved come by here."""
        family, kind, protocol, _, address = info
        self._demand(str(address[0]))
        return socket.socket(family, kind, protocol)

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 -- as the base class has it
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        peer = connection.transport.get_extra_info("peername") if connection.transport else None
        try:
            self._demand(str(peer[0]) if peer else "")
        except OutgoingError:
            connection.close()
            raise
        return connection

    def _demand(self, address: str) -> None:
        if not self._rules.permits(address):
            raise _address_refused()


class _Resolver(AbstractResolver):
    """Finds addresses of names, all of them permitted ones."""

    def __init__(self, rules: OutgoingRules, look_up: LookUp) -> None:
        self._rules = rules
        self._look_up = look_up

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 -- both are taken
    ) -> list[ResolveResult]:
        addresses = await self._look_up(host)
        # One that is not public makes all of them suspicious: names of honest hosts do not mix.
        if not all(map(self._rules.permits, addresses)):
            raise _address_refused()
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _address(host: str) -> str | None:
    """The address that a URL's host is, in its one usual form; None for a name. Raises OutgoingError."""
    try:
        if host.startswith("["):
            return str(ipaddress.IPv6Address(host[1:-1]))
        # Leading zeros, and fewer than four numbers, are refused: readers differ about what they mean.
        return str(ipaddress.IPv4Address(host)) if _NUMBERS.fullmatch(host) else None
    except ValueError:
        raise _refused("must give an address in its usual form") from None


def _refused(detail: str) -> OutgoingError:
    return OutgoingError(Failure.URL_REFUSED, detail)


def _address_refused() -> OutgoingError:
    return OutgoingError(Failure.ADDRESS_REFUSED, "the host has an address that is not public")
