"""The networks whose accounts can be bound, behind one Protocol. One module for each."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pydantic import SecretStr

from services.accounts.model import BindingRefusedError, Profile, binding_refused
from services.chassis.errors import Kind, ServiceError


@dataclass(frozen=True, slots=True)
class Application:
    """
    What a server knows us as, and where its OAuth2 is.

    Attributes:
        issuer: what the server calls itself in redirects (RFC 9207); "" when it does not tell.
        names_issuer: whether it promised to name itself in every redirect.
        pkce: whether codes are asked for with a challenge (RFC 7636).
    """

    server: str
    redirect_uri: str
    client_id: str
    client_secret: SecretStr
    authorize_endpoint: str
    token_endpoint: str
    revoke_endpoint: str
    issuer: str = ""
    names_issuer: bool = False
    pkce: bool = True


@dataclass(frozen=True, slots=True)
class Authorization:
    """
    What the holder of an account agreed to: the token, and whose it is.

    Attributes:
        life: how long the token is good for, from now. None: for ever, as far as the server says.
        refresh_token: gets the next token, where the server gives one.
    """

    token: SecretStr
    profile: Profile
    life: timedelta | None = None
    refresh_token: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class Renewal:
    """
    What a refresh gives.

    Attributes:
        life: how long the token is good for, from now. None: for ever, as far as the server says.
        refresh_token: gets the next token; None: the one that was used does.
    """

    token: SecretStr
    life: timedelta | None
    refresh_token: SecretStr | None


class Network(Protocol):
    """
    OAuth2 with the servers of one network. One instance serves all threads.

    All methods but `authorize_url` raise UNAVAILABLE (`NETWORK_UNAVAILABLE`) when the server does not
    answer in time or not as it should, and FAILED_PRECONDITION when it says no (`NETWORK_REFUSED`) or sends us to another
    origin (`NETWORK_LEADS_ELSEWHERE`).
    """

    @property
    def known_servers(self) -> frozenset[str] | None:
        """The servers that we were made known to by hand. None: we register ourselves, with any server."""
        ...

    def register(self, server: str, redirect_uri: str) -> Application:
        """Make us known to a server; one of `known_servers` is not called for it."""
        ...

    def authorize_url(self, application: Application, *, state: str, challenge: str) -> str:
        """Where the holder agrees; `challenge` is PKCE's (S256), left out where the application has none."""
        ...

    def exchange(self, application: Application, *, code: str, verifier: SecretStr) -> Authorization:
        """
        The token for a code, and the account that it is for.

        Raises FAILED_PRECONDITION when the holder agreed to less than asked for (`AUTHORIZATION_INCOMPLETE`), or the
        token is another app's or another person's than the server said (`AUTHORIZATION_MISMATCH`).
        """
        ...

    def refresh(self, application: Application, refresh_token: SecretStr) -> Renewal:
        """
        The next token. Servers may let a refresh token work once only.

        Raises FAILED_PRECONDITION (`NETWORK_REFUSED`) when the server no longer takes the refresh token, and UNAVAILABLE
        (`NETWORK_UNAVAILABLE`) for everything else, also where the server refuses us as a whole.
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


def network_refused(server: str, status: int, code: str = "") -> NetworkRefusedError:
    """The server says no; its own words may quote the request, so only the status and the error's number go on."""
    metadata = {"server": server, "status": str(status)} | ({"code": code} if code else {})
    said = f"HTTP status {status}" + (f" and error {code}" if code else "")
    return NetworkRefusedError(
        Kind.FAILED_PRECONDITION, "NETWORK_REFUSED", f"{server} refused with {said}", metadata=metadata
    )


def leads_elsewhere(server: str) -> BindingRefusedError:
    """The server redirects us, or names an address of another origin: we talk to nobody but whom we were told to."""
    return binding_refused(
        "NETWORK_LEADS_ELSEWHERE",
        f"{server} sends us to another origin, which we do not follow: name the server that its accounts are on",
        server=server,
    )


def authorization_incomplete(server: str, missing: str) -> BindingRefusedError:
    """The holder, or the server, granted less than we need."""
    return binding_refused(
        "AUTHORIZATION_INCOMPLETE",
        f"{server} did not grant {missing}: start a new binding and agree to all",
        server=server,
        scopes=missing,
    )


def authorization_mismatch(server: str, what: str) -> BindingRefusedError:
    """The token is not what the server said: that of another app, or of another person."""
    return binding_refused(
        "AUTHORIZATION_MISMATCH",
        f"the {what} of the token that {server} gave is not the one that was agreed to: start a new binding",
        server=server,
        what=what,
    )
