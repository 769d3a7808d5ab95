"""The gateway, route by route, and the balancer before it."""

from deploy.grafana.expressions import PROBES, method, or_zero, per_second, quantile
from deploy.grafana.panels import Board, Query, Section, Unit, lines

_ROUTES = f'{{http_route!~"{PROBES}|"}}'
_OURS = '{service="gateway"}'

_HTTP = [
    lines(
        "Requests by route", Unit.REQUESTS,
        "The ten busiest. One that is new here is a partner's new program, or an attack: the logs have the credential.",
        Query(f"topk(10, {per_second('http_server_request_duration_seconds_count' + _ROUTES, 'http_route')})", "{{http_route}}"),
        width=12,
    ),
    lines(
        "95 of 100 answered within, by route", Unit.SECONDS,
        "The ten slowest; exemplars lead to a trace. `:watch` are streams and last; `:ingest` are uploads.",
        Query(
            f"topk(10, {quantile(0.95, 'http_server_request_duration_seconds' + _ROUTES, 'http_route')} > 0)", "{{http_route}}",
            exemplars=True,
        ),
        width=12,
    ),
    lines(
        "Errors of ours, by route", Unit.REQUESTS,
        "Where 5xx come from. The route's service is in its calls below.",
        Query(
            or_zero(per_second(
                f'http_server_request_duration_seconds_count{{http_route!~"{PROBES}", http_response_status_code=~"5.."}}',
                "http_route", "http_response_status_code",
            )),
            "{{http_response_status_code}} {{http_route}}",
        ),
        width=12,
    ),
    lines(
        "Refusals, by answer", Unit.REQUESTS,
        "401: who are you; 403: not admitted or not allowed; 409: not in this state; 429: too much. A partner with many of "
        "them needs a hint.",
        Query(
            or_zero(per_second(
                f'http_server_request_duration_seconds_count{{http_route!~"{PROBES}", http_response_status_code=~"4.."}}',
                "http_response_status_code",
            )),
            "{{http_response_status_code}}",
        ),
        width=12,
    ),
]  # fmt: skip

_CALLS = [
    lines(
        "Admissions by outcome", Unit.REQUESTS,
        "Requests that needed an admission. Refusals that jump: a stage was narrowed or rolled back; the reason tells.",
        Query(or_zero(per_second("numerator_gateway_admissions_total", "outcome", "reason")), "{{outcome}} {{reason}}"),
    ),
    lines(
        "Refused for being too many", Unit.REQUESTS,
        "By limit: of a credential, a company, requests at once, or logins. A partner who meets it often needs a word or a "
        "higher limit.",
        Query(or_zero(per_second("numerator_gateway_limited_total", "limit")), "{{limit}}"),
    ),
    lines(
        "Streams that are open", Unit.COUNT,
        "Server-sent events, by method. They move to another gateway when one is restarted.",
        Query(or_zero(method("sum by (rpc_method) (numerator_gateway_streams)")), "{{method}}"),
    ),
    lines(
        "Calls to services, by outcome", Unit.PER_SECOND,
        "Repetitions included. UNAVAILABLE: a service is away or restarts; DEADLINE_EXCEEDED: it is too slow.",
        Query(
            per_second("rpc_client_call_duration_seconds_count" + _OURS, "rpc_response_status_code"),
            "{{rpc_response_status_code}}",
        ),
    ),
    lines(
        "Half of the calls answered within", Unit.SECONDS,
        "As the gateway sees it, the way there included; the ten slowest methods. Compare with the service's own board: "
        "the difference is the way, or waiting for a thread.",
        Query(
            f"topk(10, {method(quantile(0.5, 'rpc_client_call_duration_seconds' + _OURS, 'rpc_method'))} > 0)", "{{method}}",
            exemplars=True,
        ),
    ),
    lines(
        "Gateways that the balancer sends to", Unit.COUNT,
        "As many as were started. Fewer: the missing one is not ready; its /readyz says why.",
        Query("haproxy_backend_active_servers", "{{proxy}}"),
    ),
]  # fmt: skip

BOARD = Board(
    uid="numerator-gateway",
    title="Numerator: gateway",
    text="For whoever looks after the API: which route is busy, slow or failing.",
    sections=[Section("Requests", _HTTP), Section("Calls and balancer", _CALLS)],
)
