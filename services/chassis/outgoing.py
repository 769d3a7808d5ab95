"""
Requests to addresses that somebody else has named, as a partner's webhook endpoint or a company's identity provider.

Such a request may reach the public internet only: else whoever names the address uses us to knock at our own doors
(server-side request forgery). What keeps it so, each by itself:

- A URL has one plain form (`OutgoingRules.check`). What parsers could read in two ways is refused, not repaired.
- A name is resolved once, and we connect to the very addresses found. If one of them is not public, none is taken.
- A socket is made for a public address only, and before the first byte leaves, its peer's address is looked at.
- Redirects are not followed, proxies of the environment not used, cookies not kept, answers not unpacked.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from services.chassis.outgoing_rules import Failure, OutgoingError, OutgoingRules

MAX_ANSWER = 16 * 1024
"""How many bytes of an answer are read where nobody wants them, to let its server finish."""

_LOOKUPS = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; the body where it was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


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
        """Post `body` to `url`; what it answers is not kept. Any status is an answer, also a redirect. Raises OutgoingError."""
        return await self._request("POST", url, body, headers, None)

    async def fetch(
        self, method: str, url: str, *, headers: Mapping[str, str], limit: int, body: bytes | None = None
    ) -> Answer:
        """
        Make a request and keep what is answered, as it came: nothing is unpacked. Any status is an answer, also a redirect.

        Raises OutgoingError, also (`PROTOCOL_ERROR`) for an answer of more than `limit` bytes.
        """
        return await self._request(method, url, body, headers, limit)

    async def _request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], limit: int | None
    ) -> Answer:
        """The answer, with a body of at most `limit` bytes; None: without one. Raises OutgoingError."""
        target = URL(self._rules.check(url), encoded=True)
        try:
            async with self._session.request(
                method, target, data=body, headers=headers, allow_redirects=False
            ) as response:
                if limit is None:
                    await response.content.read(MAX_ANSWER)
                    return Answer(response.status, response.headers)
                return Answer(response.status, response.headers, await _whole(response.content, limit))
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


async def _whole(content: aiohttp.StreamReader, limit: int) -> bytes:
    """All that is answered. Raises OutgoingError when that is more than `limit` bytes."""
    read = b""
    while part := await content.read(limit + 1 - len(read)):
        read += part
        if len(read) > limit:
            raise OutgoingError(Failure.PROTOCOL_ERROR, f"the answer is longer than {limit} bytes")
    return read


def _address_refused() -> OutgoingError:
    return OutgoingError(Failure.ADDRESS_REFUSED, "the host has an address that is not public")
