"""What is noted of a caller once it is known who asks."""

from opentelemetry import trace
from starlette.types import Scope

from gateway.catalogue import Shape
from gateway.identity import ANONYMOUS
from services.chassis.principal import Principal


def introduce(scope: Scope, principal: Principal, shape: Shape) -> tuple[str, str]:
    """
    Tell the trace and the count of usage who asks, and for a thing of what shape.

    Returns credential and tenant under which its requests are limited: `with limits.request(*introduce(…))`.
    """
    scope["enterprise"], scope["shape"] = principal.enterprise, shape
    span = trace.get_current_span()
    span.set_attribute("numerator.principal.kind", principal.kind)
    if principal.enterprise:
        span.set_attribute("numerator.enterprise", principal.enterprise)
    client = scope["client"][0] if scope.get("client") else "unknown"
    credential = f"the address {client}" if principal is ANONYMOUS else principal.subject
    return credential, principal.enterprise or credential
