"""Asking a process's metrics port."""

import http.client
from typing import NamedTuple


class Answer(NamedTuple):
    """A status, and the text without its line end; status 0 when nobody listens."""

    status: int
    text: str


def probe(port: int, path: str, accept: str = "*/*") -> Answer:
    """
    What a process on this machine answers on its metrics port; a probe that takes a second is an error.

    `/metrics` may take longer: the process has to put it together.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10 if path == "/metrics" else 1)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        reply = connection.getresponse()
        return Answer(reply.status, reply.read().decode().rstrip())
    except ConnectionError:
        return Answer(0, "")
    finally:
        connection.close()
