"""The networks whose accounts can be bound, behind one Protocol. One module for each."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pydantic import SecretStr

from services.accounts.model import BindingRefusedError, Profile, binding_refused
from services.chassis.errors import Kind, ServiceError


@dataclass(frozen=True, slots=True)
class Application:
    """What a server knows us as, and where its OAuth2 is."""

    server: str
    redirect_uri: str
    client_id: str
    client_secret: SecretStr
    authorize_endpoint: str
    token_endpoint: str
    revoke_endpoint: str


@dataclass(frozen=True, slots=True)
class Authorization:
    """What the holder of an account agreed to: the token, and whose it is."""

    token: SecretStr
    profile: Profile


class Network(Protocol):
    """
    OAuth2 with the servers of one network. One instance serves all threads.

    All methods but `authorize_url` raise UNAVAILABLE (`NETWORK_UNAVAILABLE`) when the server does not answer in time
    or not as it should, and FAILED_PRECONDITION (`NETWORK_REFUSED`) when it says no.
    """

    def register(self, server: str, redirect_uri: str) -> Application:
        """Make us known to a server."""
        ...

    def authorize_url(self, application: Application, *, state: str, challenge: str) -> str:
        """Where the holder agrees; `challenge` is PKCE's (S256)."""
        ...

    def exchange(self, application: Application, *, code: str, verifier: SecretStr) -> Authorization:
        """
        The token for a code, and the account that it is for.

        Raises FAILED_PRECONDITION (`AUTHORIZATION_INCOMPLETE`) when the holder agreed to less than asked for.
        """
        ...

    def revoke(self, application: Application, token: SecretStr) -> None:
        """Have a token forgotten."""
        ...


def network_unavailable(server: str) -> ServiceError:
    """The server does not answer, or not as a server of the network should."""
    return ServiceError(
        Kind.UNAVAILABLE,
        "NETWORK_UNAVAILABLE",
        f"{server} does not answer as it should: try again later",
        metadata={"server": server},
        retry_after=timedelta(seconds=30),
    )


class NetworkRefusedError(ServiceError):
    """The server says no."""


def network_refused(server: str, status: int) -> NetworkRefusedError:
    """The server says no; its own words may quote the request, so only the status goes on."""
    return NetworkRefusedError(
        Kind.FAILED_PRECONDITION,
        "NETWORK_REFUSED",
        f"{server} refused with HTTP status {status}",
        metadata={"server": server, "status": str(status)},
    )


def authorization_incomplete(server: str, missing: str) -> BindingRefusedError:
    """The holder, or the server, granted less than we need."""
    return binding_refused(
        "AUTHORIZATION_INCOMPLETE",
        f"{server} did not grant {missing}: start a new binding and agree to all",
        server=server,
        scopes=missing,
    )
