"""Addresses of servers."""

from urllib.parse import urlsplit

from services.chassis.errors import invalid


def normal_server(server: str) -> str:
    """
    A server's base URL in the one form in which it is compared and kept: scheme and host, port when it is not the
    scheme's own, no path. Raises INVALID_ARGUMENT (`SERVER_MALFORMED`).
    """
    try:
        parts = urlsplit(server)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in _PORTS or parts.path not in {"", "/"} or _has_more(server):
        raise invalid(
            "server", "must be a server's base URL, as https://social.example", reason="SERVER_MALFORMED"
        )
    literal = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{literal}" + ("" if port in {None, _PORTS[parts.scheme]} else f":{port}")


_PORTS = {"http": 80, "https": 443}


def _has_more(server: str) -> bool:
    """Whether there is a user, a query, a fragment or white space, of which a base URL has none."""
    return any(mark in server for mark in "@?#\\") or not server.isprintable() or " " in server
