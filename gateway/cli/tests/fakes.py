"""The services behind the gateway of these tests: they answer what the test says, and remember what they were asked."""

from typing import Any

from numerator.accounts.v1 import accounts_pb2 as accounts
from numerator.accounts.v1 import apps_pb2
from numerator.options.v1 import options_pb2
from numerator.rollout.v1 import serving_pb2

from services.chassis.errors import Kind, ServiceError

SECRETS = {"operator": "s3cret of the operator", "reviewer": "s3cret of the reviewer"}


class Answers:
    """
    All services of one program.

    Attributes:
        answers: by method, what it answers: a message, an error, a function of the request that gives either, or a list to stream.
        requests: what came from operators, by method, in order.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[tuple[str, Any]] = []

    def __getattr__(self, method: str):
        return lambda request, context: self._answer(method, request)

    def asked(self, method: str) -> list[Any]:
        """The requests of a method."""
        return [request for name, request in self.requests if name == method]

    def _answer(self, method: str, request):
        self.requests.append((method, request))
        answer = self.answers[method]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, ServiceError):
            raise answer
        return answer


class Accounts(Answers):
    """Accounts. Knows two operators, and counts how often they log in. Nobody's tokens are revoked."""

    def __init__(self) -> None:
        super().__init__()
        self.logins: list[str] = []

    def AuthenticateClient(self, request, context):
        self.logins.append(request.client_id)
        if SECRETS.get(request.client_id) != request.client_secret:
            raise ServiceError(Kind.UNAUTHENTICATED, "CREDENTIALS_INVALID", "unknown client or wrong secret")
        return accounts.Identity(kind=options_pb2.OPERATOR, subject=f"clients/{request.client_id}")

    def ListRevocations(self, request, context):
        return apps_pb2.ListRevocationsResponse()


class Rollouts(Answers):
    """Rollout. What gateways ask is answered with nothing, and not remembered."""

    _OF_GATEWAYS = frozenset({"GetSnapshot", "GetAdmissions", "ReportReplica"})

    def _answer(self, method: str, request):
        if method in self._OF_GATEWAYS:
            reply = {"GetSnapshot": "Snapshot"}.get(method, f"{method}Response")
            return getattr(serving_pb2, reply)()
        return super()._answer(method, request)
