"""
Which addresses that somebody else has named we may reach: those of the public internet only.

`outgoing.py` makes the requests, and says why.
"""

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 2_000
"""The longest URL, in characters."""
_MAX_NAME = 253
_DEFAULT_PORTS = {"https": 443, "http": 80}
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

    def check(self, url: str) -> str:
        """
        The URL in its plainest form, which all readers read alike. Says nothing of what its host's name resolves to: that
        is looked at by each call.

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
        port = int(found["port"] or _DEFAULT_PORTS[scheme])
        if port not in _DEFAULT_PORTS.values() and not (self.any_port and 0 < port < 1 << 16):
            raise _refused("must have no port, or 443 or 80")
        address = _address(host)
        if address is None and (len(host) > _MAX_NAME or not _NAME.fullmatch(host)):
            raise _refused(
                "must name a host by its full name, as hooks.example (an international one as xn--…), or by an address "
                "in its usual form"
            )
        if address is not None and not self.permits(address):
            raise OutgoingError(Failure.ADDRESS_REFUSED, "must lead to a public address")
        shown = host if address is None else f"[{address}]" if ":" in address else address
        place = shown if port == _DEFAULT_PORTS[scheme] else f"{shown}:{port}"
        query = "" if found["query"] is None else f"?{found['query']}"
        return f"{scheme}://{place}{found['path'] or '/'}{query}"


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
