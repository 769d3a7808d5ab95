"""PromQL that is written more than once."""

PROBES = "/healthz|/readyz|/openz"
"""The gateway's routes that the balancer asks, and no customer."""

SERVER_ERRORS = "UNKNOWN|DEADLINE_EXCEEDED|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS"
"""The status codes of calls that are the server's fault; as in rules/signals.yml."""


def per_second(counter: str, *by: str) -> str:
    """How fast a counter grows, added up by labels. A range that suits the scrapes and the width is put in for us."""
    return f"sum {_by(by)}(rate({counter}[$__rate_interval]))"


def quantile(share: float, histogram: str, *by: str) -> str:
    """The value that `share` of the measurements do not exceed. `histogram` without `_bucket`, selector allowed."""
    name, brace, selector = histogram.partition("{")
    return f"histogram_quantile({share}, {per_second(f'{name}_bucket{brace}{selector}', *by, 'le')})"


def gained(counter: str, window: str, *by: str) -> str:
    """
    By how much a counter has grown within a window.

    A series that began within it counts from zero, which `increase` alone would forget: the first registration of the
    day is a series of its own, and all that there is to show.
    """
    return f"sum {_by(by)}(({counter} unless {counter} offset {window}) or increase({counter}[{window}]))"


def or_zero(expr: str) -> str:
    """For what is normally absent, as errors are: zero then. Panels without data are taken for mistakes."""
    return f"{expr} or on () vector(0)"


def method(expr: str) -> str:
    """`numerator.rollout.v1.RolloutService/GetRollout` as label `method`: `GetRollout`."""
    return f'label_replace({expr}, "method", "$1", "rpc_method", ".*/(.*)")'


def handler(expr: str) -> str:
    """The queue `rollout.on_enterprise_verified` as label `handler`: `on_enterprise_verified`."""
    return f'label_replace({expr}, "handler", "$1", "messaging_destination_name", ".*?\\\\.(.*)")'


def _by(labels: tuple[str, ...]) -> str:
    return f"by ({', '.join(labels)}) " if labels else ""
