"""A Prometheus that says what it is told to: its HTTP API, in memory."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import httpx

from deploy.grafana.promql import Prometheus

Answer = Callable[[str, dict[str, str]], Any]
"""What it answers to a path with parameters: the field `data`, or an `httpx.Response` as it is."""


def prometheus(answer: Answer) -> Prometheus:
    """A client of a Prometheus that answers so."""

    def handle(request: httpx.Request) -> httpx.Response:
        found = answer(
            request.url.path, {key: value[0] for key, value in parse_qs(request.content.decode()).items()}
        )
        return (
            found
            if isinstance(found, httpx.Response)
            else httpx.Response(200, json={"status": "success", "data": found})
        )

    client = Prometheus("http://prometheus")
    client._client = httpx.AsyncClient(base_url="http://prometheus", transport=httpx.MockTransport(handle))
    return client


def failing(text: str) -> httpx.Response:
    """An error as Prometheus tells it."""
    return httpx.Response(400, content=json.dumps({"status": "error", "error": text}))
