"""Which method a request is for."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.catalogue import Binding, Method
from gateway.errors import Problem
from gateway.transcoding import RequestReader


@dataclass(frozen=True)
class Route:
    """One way in to a method."""

    method: Method
    binding: Binding
    reader: RequestReader


class Routes:
    """All routes. Built once; looking one up tries only those with the path's number of segments."""

    def __init__(self, methods: Iterable[Method]) -> None:
        """Raises ValueError when two methods share a path, which no request could tell apart."""
        self._by_count: dict[int | None, list[Route]] = defaultdict(list)
        taken: dict[tuple[str, str], str] = {}
        for method in methods:
            for binding in method.bindings:
                key = binding.http_method, binding.path.pattern
                if key in taken:
                    raise ValueError(f"{method.name} and {taken[key]} have the same route {' '.join(key)}")
                taken[key] = method.name
                route = Route(method, binding, RequestReader(method, binding))
                self._by_count[binding.path.segment_count].append(route)
        for routes in self._by_count.values():
            # What is spelled out goes before what is left open: /users/me before /users/{user}.
            routes.sort(key=lambda route: route.binding.path.pattern.count("*"))

    def find(self, http_method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """
        The route for a request, and what its path says.

        HEAD finds the route of GET. Raises 404 `NO_SUCH_ROUTE`, 405 with `Allow`, or 400 for a path that is not UTF-8.
        """
        wanted = "GET" if http_method == "HEAD" else http_method
        allowed: set[str] = set()
        for route in (*self._by_count.get(raw_path.count("/"), ()), *self._by_count.get(None, ())):
            try:
                values = route.binding.path.match(raw_path)
            except UnicodeDecodeError:
                raise Problem(400, "MALFORMED_PATH", "the path is not UTF-8") from None
            if values is None:
                continue
            if route.binding.http_method == wanted:
                return route, values
            allowed.add(route.binding.http_method)
        if not allowed:
            raise Problem(404, "NO_SUCH_ROUTE", "there is nothing at this path; /docs lists what there is")
        raise not_allowed(allowed)


def not_allowed(allowed: Iterable[str]) -> Problem:
    """405: the path exists, for other HTTP methods."""
    names = sorted({*allowed, *(["HEAD"] if "GET" in allowed else []), "OPTIONS"})
    return Problem(
        405,
        "METHOD_NOT_ALLOWED",
        f"this path takes {', '.join(names)}",
        headers={"allow": ", ".join(names)},
    )
